"""Rotary positions: queries and keys turned by the angle of their position, pair by pair.

    (a, b)  ->  (a cos - b sin, b cos + a sin)

Which dimensions are turned, and which make a pair, is the family's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from homolog.models.mixers.base import Rotary


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """The first dimensions of x (..., position, head, d_head), paired half by half."""
    if rotary is None:
        return x
    cos, sin = (t.unsqueeze(-2) for t in rotary)
    width = cos.shape[-1]
    turned, kept = x[..., :width], x[..., width:]
    first, second = turned.chunk(2, dim=-1)
    # the tables of some models are wider
    turned = (turned * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)
    return torch.cat([turned, kept], dim=-1) if kept.shape[-1] else turned


def rotate_pairs(x: Tensor, rotary: Rotary) -> Tensor:
    """The same dimensions, neighbours paired; then come the first of all pairs, and the second.

    Queries and keys change their order alike, which no score sees.
    """
    if rotary is None:
        return x
    turned, kept = x.tensor_split([rotary[0].shape[-1]], -1)
    return torch.cat([rotate(_paired(turned), rotary), kept], -1)


def rotate_last(x: Tensor, rotary: Rotary) -> Tensor:
    """The last dimensions instead."""
    if rotary is None:
        return x
    kept, turned = x.tensor_split([x.shape[-1] - rotary[0].shape[-1]], -1)
    return torch.cat([kept, rotate(turned, rotary)], -1)


def rotate_last_pairs(x: Tensor, rotary: Rotary) -> Tensor:
    """The last dimensions, neighbours paired, in the same order."""
    if rotary is None:
        return x
    kept, turned = x.tensor_split([x.shape[-1] - rotary[0].shape[-1]], -1)
    return torch.cat([kept, rotate(_paired(turned), rotary)], -1)


def _paired(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
