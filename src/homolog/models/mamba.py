"""Mamba-1 and Falcon-Mamba: every block is a mixer with a selective scan.

The residual stream stays in float32 when the configuration says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from homolog.models.decoder import Decoder, Trunk
from homolog.models.mixers.base import Branch, Norm
from homolog.models.mixers.selective_scan import SelectiveScan
from homolog.models.widening import apply_norm, widened


class Mamba(Decoder):
    """Adapter over `transformers.MambaForCausalLM`."""

    architecture = "mamba"
    trunk = Trunk("backbone.layers", "backbone.norm_f")

    @property
    def residual_in_float32(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return bool(self.hf.config.residual_in_fp32)

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        return [[SelectiveScan(layer, cast_normed(block.norm), block.mixer)]]


class FalconMamba(Mamba):
    """Mamba-1 whose dt', B and C are normed, without weights."""

    architecture = "falcon_mamba"

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        norm = weightless(block.mixer.rms_eps)
        inner = (norm, norm, norm)
        return [[SelectiveScan(layer, cast_normed(block.norm), block.mixer, inner)]]


def weightless(eps: float) -> Norm:
    """x over the root of its mean square."""

    def norm(x: Tensor) -> Tensor:
        wide = widened(x)
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)

    return norm


def cast_normed(norm: Any) -> Norm:
    """A norm of a stream that may be wider than its weights."""
    return lambda h: apply_norm(norm, h.to(norm.weight.dtype))
