"""Llama and its family: norms, rotary positions, shared key and value heads, a gated MLP.

    block:  h <- h + out(attention(norm(h)));  h <- h + down(act(gate(norm'(h))) * up(norm'(h)))

What differs from one to the other is read off the modules and told here as data: which norms stand
before and after each part, whether queries and keys are normed, how far a block sees, what
multiplies embeddings, parts and logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from homolog.axes import Logits, Residual, Tokens
from homolog.models.decoder import Decoder, Trunk, normed, times
from homolog.models.mixers.attention import Attention, AttentionParts
from homolog.models.mixers.base import Branch, Norm
from homolog.models.mixers.projections import FusedInTurn, Projections, Separate
from homolog.models.mlp import MLP, OwnMLP, gated, gated_fused

IN, AFTER_ATTENTION = "input_layernorm", "post_attention_layernorm"
BEFORE_MLP, AFTER_MLP = "pre_feedforward_layernorm", "post_feedforward_layernorm"


@dataclass(frozen=True)
class Norms:
    """Names of the norms around attention and MLP; None where there is none."""

    before_attention: str | None = IN
    before_mlp: str | None = AFTER_ATTENTION
    after_attention: str | None = None
    after_mlp: str | None = None


BEFORE = Norms()
AROUND = Norms(IN, BEFORE_MLP, AFTER_ATTENTION, AFTER_MLP)
AFTER = Norms(None, None, AFTER_ATTENTION, AFTER_MLP)


class Llama(Decoder):
    """Adapter over `transformers.LlamaForCausalLM`, and base of those of its family.

    Query head i reads key and value head i // (n_heads / n_kv_heads).  Rotary scaling is that of
    the module.
    """

    architecture = "llama"
    trunk = Trunk("model.layers", "model.norm", "model.rotary_emb")
    norms = BEFORE

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        return [[self.attention(layer, block)], [self.mlp(layer, block)]]

    def attention(self, layer: int, block: Any) -> Attention:
        norm, after = self._norm(block, self.norms.before_attention), self.norms.after_attention
        parts = attention_parts(self.hf.config, block.self_attn, layer)
        parts = parts | {"after": self._after(block, after), "table": self.table(layer)}
        return Attention(layer, norm, AttentionParts(**parts))

    def mlp(self, layer: int, block: Any) -> Branch:
        mlp = block.mlp
        norm = self._norm(block, self.norms.before_mlp)
        after = self._after(block, self.norms.after_mlp)
        if hasattr(mlp, "experts"):
            return OwnMLP(layer, norm, mlp, after)
        return MLP(layer, norm, hidden_of(mlp), mlp.down_proj, after)

    def table(self, layer: int) -> str | None:
        """Which rotary tables a block takes, where there are several."""
        return None

    def _norm(self, block: Any, name: str | None) -> Norm:
        return normed(torch.nn.Identity() if name is None else block.get_submodule(name))

    def _after(self, block: Any, name: str | None) -> Norm | None:
        norm = None if name is None else normed(block.get_submodule(name))
        return times(getattr(self.hf.config, "residual_multiplier", 1.0), norm)

    def embed(self, tokens: Tokens) -> Residual:
        embedded, factor = (
            super().embed(tokens),
            getattr(self.hf.config, "embedding_multiplier", 1.0),
        )
        return embedded if factor == 1 else embedded * factor

    def logits(self, h: Residual) -> Logits:
        """Final norm and unembedding, divided and capped as the model does it; float32 or wider."""
        config, logits = self.hf.config, super().logits(h)
        if (scaling := getattr(config, "logits_scaling", 1.0)) != 1:
            logits = logits / scaling
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits


def attention_parts(config: Any, attention: Any, layer: int) -> dict[str, Any]:
    """What a module of attention of the family is made of: arguments of `AttentionParts`."""
    n_heads = config.num_attention_heads
    n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
    d_head = attention.head_dim
    return {
        "project": projections(attention, n_heads, n_kv_heads, d_head),
        "out": attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj,
        "n_heads": n_heads,
        "n_kv_heads": n_kv_heads,
        "d_head": d_head,
        "scale": attention.scaling,
        "rotary": bool(getattr(attention, "use_rope", True)),
        "window": window(config, attention),
        "soft_cap": getattr(attention, "attn_logit_softcapping", None),
        "norms": head_norms(attention),
        "sinks": getattr(attention, "sinks", None),
    }


def projections(attention: Any, n_heads: int, n_kv_heads: int, d_head: int) -> Projections:
    """Separate ones, or one matrix for all three in turn."""
    if hasattr(attention, "qkv_proj"):
        return FusedInTurn(attention.qkv_proj, (n_heads, n_kv_heads, n_kv_heads), d_head)
    return Separate(attention.q_proj, attention.k_proj, attention.v_proj, (d_head,) * 3)


def window(config: Any, attention: Any) -> int | None:
    """How many positions a query of the block sees; None: all before it.

    Modules that have a window of their own say None where they see everything.
    """
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window
    has_window = config.model_type in ("mistral", "mixtral", "phi3", "starcoder2")
    return config.sliding_window if has_window else None


def head_norms(attention: Any) -> tuple[Norm, Norm] | None:
    """The norms of queries and keys, head by head or over all heads together."""
    for names in (("q_norm", "k_norm"), ("q_layernorm", "k_layernorm")):
        if not hasattr(attention, names[0]):
            continue
        query, key = (getattr(attention, name) for name in names)
        if hasattr(query, "norms"):  # a module for each head
            return _each_head(query), _each_head(key)
        whole = query.weight.shape[-1] != attention.head_dim
        return (_flat(query), _flat(key)) if whole else (normed(query), normed(key))
    return None


def _each_head(norm: Any) -> Norm:
    return lambda x: torch.stack([n(x[..., i, :]) for i, n in enumerate(norm.norms)], -2)


def _flat(norm: Any) -> Norm:
    of_all = normed(norm)
    return lambda x: of_all(x.flatten(-2)).unflatten(-1, x.shape[-2:])


def hidden_of(mlp: Any) -> Callable[[Tensor], Tensor]:
    """What the last matrix of a gated MLP reads."""
    act = mlp.act_fn if hasattr(mlp, "act_fn") else mlp.activation_fn
    if hasattr(mlp, "gate_up_proj"):
        return gated_fused(act, mlp.gate_up_proj)
    return gated(act, mlp.gate_proj, mlp.up_proj)


class Mistral(Llama):
    architecture = "mistral"


class Qwen2(Llama):
    architecture = "qwen2"


class Qwen3(Llama):
    architecture = "qwen3"


class SmolLM3(Llama):
    architecture = "smollm3"


class Granite(Llama):
    architecture = "granite"


class Phi3(Llama):
    architecture = "phi3"


class Gemma(Llama):
    architecture = "gemma"


class Gemma2(Llama):
    architecture = "gemma2"
    norms = AROUND


class Gemma3(Llama):
    """Blocks that see a window have rotary tables of their own."""

    architecture = "gemma3_text"
    norms = AROUND

    def table(self, layer: int) -> str | None:
        return self.hf.config.layer_types[layer]

    def rotary_tables(
        self, module: Any, positions: Tensor, like: Tensor
    ) -> dict[str | None, tuple[Tensor, Tensor]]:
        kinds = dict.fromkeys(self.hf.config.layer_types)
        return {kind: module(like, positions[None], kind) for kind in kinds}


class OLMo2(Llama):
    architecture = "olmo2"
    norms = AFTER


class StableLM(Llama):
    """Attention and MLP may stand side by side, on one norm."""

    architecture = "stablelm"

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        if not self.hf.config.use_parallel_residual:
            return super().steps(layer, block)
        mlp = block.mlp
        norm = self._norm(block, IN)
        return [[self.attention(layer, block), MLP(layer, norm, hidden_of(mlp), mlp.down_proj)]]


FAMILY: tuple[type[Llama], ...] = (
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma,
    Gemma2,
    Gemma3,
    OLMo2,
    Granite,
    SmolLM3,
    Phi3,
    StableLM,
)
