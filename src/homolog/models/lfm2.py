"""LFM2: gated short convolutions and, in turn, attention with normed queries and keys.

    block:  h <- h + mixer(norm(h));  h <- h + w2(SiLU(w1(norm'(h))) * w3(norm'(h)))

In its form with experts most blocks have those for the MLP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.nn.functional import silu

from homolog.models.decoder import Decoder, Trunk, normed
from homolog.models.llama import attention_parts
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.attention_parts import AttentionParts
from homolog.models.mixers.base import Branch, Mixer
from homolog.models.mixers.short_convolution import ShortConvolution
from homolog.models.mlp import MLP, OwnMLP, gated


class LFM2(Decoder):
    """Adapter over `transformers.Lfm2ForCausalLM`."""

    architecture = "lfm2"
    trunk = Trunk("model.layers", "model.embedding_norm", "model.rotary_emb")

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        return [[self._mixer(layer, block)], [self._mlp(layer, block)]]

    def _mixer(self, layer: int, block: Any) -> Mixer:
        norm = normed(block.operator_norm)
        if not block.is_attention_layer:
            return ShortConvolution(layer, norm, block.conv)
        parts = attention_parts(self.hf.config, block.self_attn, layer)
        return Attention(layer, norm, AttentionParts(**parts))

    def _mlp(self, layer: int, block: Any) -> Branch:
        norm, mlp = normed(block.ffn_norm), block.feed_forward
        if not hasattr(mlp, "w1"):
            return OwnMLP(layer, norm, mlp)
        return MLP(layer, norm, gated(silu, mlp.w1, mlp.w3), mlp.w2)


class LFM2MoE(LFM2):
    """Adapter over `transformers.Lfm2MoeForCausalLM`."""

    architecture = "lfm2_moe"
    trunk = Trunk("model.layers", "model.embedding_norm", "model.pos_emb")
