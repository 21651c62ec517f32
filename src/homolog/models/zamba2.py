"""Zamba2: Mamba-2 in every block, in some of them beside a Transformer block that they share.

    x     = attention(norm(h beside the embeddings))        in some blocks
    x     = linear(down(act(gate(norm'(x))) * up(norm'(x))))
    h    <- h + mamba(norm"(h + x))                         x = 0 in the other blocks

Attention and MLP of one block have the same weights in several blocks, to which each block adds
matrices of low rank of its own.  What they give is never added to the stream: they stand aside, and
the Mamba mixer of their block reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from homolog.models.decoder import Decoder, Trunk, normed
from homolog.models.llama import attention_parts
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.attention_parts import AttentionParts
from homolog.models.mixers.base import EMBEDDED, Branch, Context
from homolog.models.mixers.projections import Adapted, low_rank
from homolog.models.mixers.ssd import SSD
from homolog.models.mlp import MLP
from homolog.models.products import linear


class Zamba2(Decoder):
    """Adapter over `transformers.Zamba2ForCausalLM`."""

    architecture = "zamba2"

    @property
    def trunk(self) -> Trunk:  # pyright: ignore[reportIncompatibleVariableOverride]
        rotary = "model.rotary_emb" if self.hf.config.use_mem_rope else None
        return Trunk("model.layers", "model.final_layernorm", rotary)

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        if not hasattr(block, "shared_transformer"):
            return [[SSD(layer, normed(block.input_layernorm), block.mamba)]]
        own = block.mamba_decoder
        mamba = SSD(layer, normed(own.input_layernorm), own.mamba)
        shared = [self._attention(layer, block), self._mlp(layer, block)]
        for branch in shared:
            branch.aside = True
        return [*([branch] for branch in shared), [mamba]]

    def _attention(self, layer: int, block: Any) -> Attention:
        shared, config = block.shared_transformer, self.hf.config
        attention = shared.self_attn
        parts = attention_parts(config, attention, layer)
        parts |= {"rotary": config.use_mem_rope, "beside": True}
        if config.use_shared_attention_adapter:
            maps = (attention.q_proj, attention.k_proj, attention.v_proj)
            lists = (getattr(attention, f"linear_{read}_adapter_list") for read in "qkv")
            lows = [every[attention.layer_dic[layer]] for every in lists]
            parts["project"] = Adapted(*maps, lows, (attention.head_dim,) * 3)
        return Attention(layer, normed(shared.input_layernorm), AttentionParts(**parts))

    def _mlp(self, layer: int, block: Any) -> MLP:
        shared = block.shared_transformer
        mlp, norm = shared.feed_forward, normed(shared.pre_ff_layernorm)
        low = mlp.gate_up_proj_adapter_list[mlp.layer_dic[layer]]
        return MLP(layer, norm, _hidden(mlp, low), mlp.down_proj, lambda x: linear(block.linear, x))

    def context_at(self, positions: Tensor, length: int, embedded: Tensor) -> Context:
        """Also the embeddings, which attention reads."""
        return {**super().context_at(positions, length, embedded), EMBEDDED: (embedded,)}


def _hidden(mlp: Any, low: Any) -> Callable[[Tensor], Tensor]:
    def hidden(x: Tensor) -> Tensor:
        gate, up = (linear(mlp.gate_up_proj, x) + low_rank(low, x)).chunk(2, dim=-1)
        return mlp.act_fn(gate) * up

    return hidden
