"""Half precision widened where it would lose, and norms that do not round in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

OLMO_EPS = 1e-5
"""Of OLMo's norm, whose module does not say it."""


def widened(t: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return t if t.dtype in (torch.float32, torch.float64) else t.float()


def apply_norm(norm: Any, h: Tensor) -> Tensor:
    """What a norm makes of h; in float64 too, where most modules of norms round to float32."""
    if h.dtype != torch.float64 or isinstance(norm, torch.nn.LayerNorm | torch.nn.Identity):
        return norm(h)
    weight = getattr(norm, "weight", None)
    with torch.no_grad():
        ones = torch.ones_like(h[(0,) * (h.ndim - 1)] if weight is None else weight)
        of_ones = norm(ones).double()
    if not of_ones.any():  # it takes the mean away: a layer norm
        h = h - h.mean(-1, keepdim=True)
    named = (getattr(norm, name, None) for name in ("variance_epsilon", "eps"))
    eps = next((value for value in named if value is not None), OLMO_EPS)
    scaled = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    return scaled if weight is None else gain(weight, of_ones) * scaled


def gain(weight: Tensor, of_ones: Tensor) -> Tensor:
    """What a norm multiplies with: its weight, or 1 + weight as in Gemma, which makes that of 1."""
    offset = float((of_ones - weight.double()).median())
    return weight + 1 if round(offset) == 1 else weight
