"""Mamba-2: every block is a mixer with an SSD.

The residual stream stays in float32 when the configuration says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homolog.models.decoder import Decoder, Trunk
from homolog.models.mamba import cast_normed
from homolog.models.mixers.base import Branch
from homolog.models.mixers.ssd import SSD


class Mamba2(Decoder):
    """Adapter over `transformers.Mamba2ForCausalLM`."""

    architecture = "mamba2"
    trunk = Trunk("backbone.layers", "backbone.norm_f")

    @property
    def residual_in_float32(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return bool(self.hf.config.residual_in_fp32)

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        return [[SSD(layer, cast_normed(block.norm), block.mixer)]]
