"""Half precision widened where it would lose, and norms that do not round in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def widened(t: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return t if t.dtype in (torch.float32, torch.float64) else t.float()


def apply_norm(norm: Any, h: Tensor) -> Tensor:
    """What a norm makes of h; in float64 too, where modules of root-mean-square norms round."""
    if h.dtype != torch.float64 or isinstance(norm, torch.nn.LayerNorm | torch.nn.Identity):
        return norm(h)
    eps = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    return gain(norm) * h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)


def gain(norm: Any) -> Tensor | float:
    """What a root-mean-square norm multiplies with: its weight, or 1 + weight as in Gemma."""
    weight = getattr(norm, "weight", None)
    if weight is None:
        return 1.0
    with torch.no_grad():
        shown = norm(torch.ones_like(weight)).double()
    offset = float((shown - weight.double()).median())
    return weight + 1 if round(offset) == 1 else weight
