"""The local part of RWKV's mixers: the token shift, a mean of a position and the one before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def shifted(x: Tensor) -> Tensor:
    """What stands at the position before, zeros before the window: (batch, position, d_model)."""
    return F.pad(x, (0, 0, 1, 0))[:, :-1]


def mixed(x: Tensor, before: Tensor, mix: Tensor) -> Tensor:
    """mix * x + (1 - mix) * before; mix (1, 1, d_model)."""
    return torch.lerp(before, x, mix.flatten().to(x.dtype))
