"""What a scan takes, what its backward pass starts from, and which states are read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor


class ScanInputs(NamedTuple):
    """u, dt (batch, position, d_inner), A (d_inner, d_state), B, C (batch, position, d_state)."""

    u: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor

    def at(self, positions: list[int] | slice) -> ScanInputs:
        """The same at some positions alone."""
        u, dt, B, C = (t[:, positions] for t in (self.u, self.dt, self.B, self.C))
        return ScanInputs(u, dt, self.A, B, C)


class ScanGradients(NamedTuple):
    """Gradients of what a scan returned; None where nobody asks for them."""

    y: Tensor
    last_state: Tensor | None
    states: Tensor | None


def slots(read: list[int], length: int) -> np.ndarray:
    """For each position the index of its state among those read, or -1; int32."""
    by_position = np.full(length, -1, np.int32)
    by_position[read] = np.arange(len(read))
    return by_position
