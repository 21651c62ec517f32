"""Nemotron-H: every block is one part: Mamba-2, attention without positions, an MLP or experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homolog.models.decoder import Decoder, Trunk
from homolog.models.llama import attention_parts
from homolog.models.mamba import cast_normed
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.attention_parts import AttentionParts
from homolog.models.mixers.base import Branch
from homolog.models.mixers.ssd import SSD
from homolog.models.mlp import MLP, OwnMLP, plain


class NemotronH(Decoder):
    """Adapter over `transformers.NemotronHForCausalLM`."""

    architecture = "nemotron_h"
    trunk = Trunk("model.layers", "model.norm_f")

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        return [[self._part(layer, block)]]

    def _part(self, layer: int, block: Any) -> Branch:
        norm, module = cast_normed(block.norm), block.mixer
        if block.block_type == "linear_attention":
            return SSD(layer, norm, module)
        if block.block_type == "full_attention":
            parts = attention_parts(self.hf.config, module, layer)
            return Attention(layer, norm, AttentionParts(**parts))
        if block.block_type == "mlp":
            return MLP(layer, norm, plain(module.act_fn, module.up_proj), module.down_proj)
        return OwnMLP(layer, norm, module)
