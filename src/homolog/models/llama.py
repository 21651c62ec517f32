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
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.attention_parts import AttentionParts
from homolog.models.mixers.base import Branch, Norm
from homolog.models.mixers.projections import FusedInTurn, Projections, Separate
from homolog.models.mlp import MLP, OwnMLP, gated, gated_fused, plain

IN, AFTER_ATTENTION = "input_layernorm", "post_attention_layernorm"
BEFORE_MLP, AFTER_MLP = "pre_feedforward_layernorm", "post_feedforward_layernorm"
LAST = ("down_proj", "c_proj", "fc2")
"""Names of an MLP's last matrix."""


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

    norms      which stand around attention and MLP
    parallel   whether both read the block's input, or the MLP what attention has added to
    """

    architecture = "llama"
    trunk = Trunk("model.layers", "model.norm", "model.rotary_emb")
    norms = BEFORE
    parallel = False

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        parts = [self.attention(layer, block), self.mlp(layer, block)]
        return [parts] if self.parallel else [[part] for part in parts]

    def attention(self, layer: int, block: Any) -> Attention:
        norm, after = self._norm(block, self.norms.before_attention), self.norms.after_attention
        parts = attention_parts(self.hf.config, block.self_attn, layer)
        parts["after"] = self._after(block, after)
        parts |= self.own_parts(layer, block)
        return Attention(layer, norm, AttentionParts(**parts))

    def own_parts(self, layer: int, block: Any) -> dict[str, Any]:
        """Where attention differs from what its module says: arguments of `AttentionParts`."""
        return {}

    def mlp(self, layer: int, block: Any) -> Branch:
        mlp = block.mlp
        norm = self._norm(block, self.norms.before_mlp)
        after = self._after(block, self.norms.after_mlp)
        if hasattr(mlp, "experts"):
            return OwnMLP(layer, norm, mlp, after)
        return MLP(layer, norm, hidden_of(mlp), named(mlp, LAST), after)

    def _norm(self, block: Any, name: str | None) -> Norm:
        return normed(torch.nn.Identity() if name is None else block.get_submodule(name))

    def _after(self, block: Any, name: str | None) -> Norm | None:
        norm = None if name is None else normed(block.get_submodule(name))
        return times(getattr(self.hf.config, "residual_multiplier", 1.0), norm)

    def embed(self, tokens: Tokens) -> Residual:
        embedded = super().embed(tokens)
        factor = getattr(self.hf.config, "embedding_multiplier", 1.0)
        return embedded if factor == 1 else embedded * factor

    def logits(self, h: Residual) -> Logits:
        """Final norm and unembedding, divided and capped as the model does it; float32 or wider."""
        logits = self.scaled(super().logits(h))
        if (cap := getattr(self.hf.config, "final_logit_softcapping", None)) is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits

    def scaled(self, logits: Logits) -> Logits:
        """The logits that a soft cap, if there is one, reads."""
        scaling = getattr(self.hf.config, "logits_scaling", 1.0)
        return logits if scaling == 1 else logits / scaling


def attention_parts(config: Any, attention: Any, layer: int) -> dict[str, Any]:
    """What a module of attention of the family is made of: arguments of `AttentionParts`."""
    n_heads = config.num_attention_heads
    n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
    d_head = attention.head_dim
    return {
        "project": projections(attention, n_heads, n_kv_heads, d_head),
        "out": named(attention, ("o_proj", "out_proj", "dense")),
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

    Modules that have a window of their own say None where they see everything, or `is_sliding`.
    """
    if not getattr(attention, "is_sliding", True):
        return None
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
        weight = getattr(query, "weight", None)
        whole = weight is not None and weight.shape[-1] != attention.head_dim
        return (_flat(query), _flat(key)) if whole else (normed(query), normed(key))
    return None


def _each_head(norm: Any) -> Norm:
    return lambda x: torch.stack([n(x[..., i, :]) for i, n in enumerate(norm.norms)], -2)


def _flat(norm: Any) -> Norm:
    of_all = normed(norm)
    return lambda x: of_all(x.flatten(-2)).unflatten(-1, x.shape[-2:])


def hidden_of(mlp: Any) -> Callable[[Tensor], Tensor]:
    """What the last matrix of an MLP reads: gated where it has a matrix for that."""
    act = named(mlp, ("act_fn", "activation_fn", "act"))
    if hasattr(mlp, "gate_up_proj"):
        return gated_fused(act, mlp.gate_up_proj)
    if hasattr(mlp, "gate_proj"):
        return gated(act, mlp.gate_proj, mlp.up_proj)
    return plain(act, named(mlp, ("up_proj", "c_fc", "fc1")))


def named(module: Any, names: Sequence[str]) -> Any:
    """The part of a module that has one of those names."""
    return next(getattr(module, name) for name in names if hasattr(module, name))
