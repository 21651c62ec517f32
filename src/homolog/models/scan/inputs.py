"""What scans take and return, what a backward pass starts from, and which states are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from homolog.errors import InputError


class ScanInputs(NamedTuple):
    """u, dt (batch, position, d_inner), A (d_inner, d_state), B, C (batch, position, d_state)."""

    u: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor

    @property
    def values(self) -> Tensor:
        """What has the shape of y."""
        return self.u

    def at(self, positions: list[int] | slice) -> ScanInputs:
        """The same at some positions alone."""
        u, dt, B, C = (t[:, positions] for t in (self.u, self.dt, self.B, self.C))
        return ScanInputs(u, dt, self.A, B, C)


class MatrixInputs(NamedTuple):
    """q, k (batch, position, group, d_k), v (batch, position, head, d_v), a decay and beta.

    log_decay (batch, position, head, 1 | d_k[, 1 | d_v]); beta (batch, position, head), or None for
    linear attention.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    beta: Tensor | None

    @property
    def values(self) -> Tensor:
        """What has the shape of y."""
        return self.v


@dataclass(frozen=True)
class ScanResult:
    """y: (batch, position, d_inner); last_state: (batch, d_inner, d_state).

    states: (batch, position, d_inner, d_state), the positions being those asked for, in the order
    asked for; None where none were.  Where the state is a matrix for each head, (head, d_v) stand
    for d_inner in y and (head, d_k, d_v) for (d_inner, d_state) in the states.
    """

    y: Tensor
    last_state: Tensor
    states: Tensor | None


class ScanGradients(NamedTuple):
    """Gradients of what a scan returned; None where nobody asks for them."""

    y: Tensor
    last_state: Tensor | None
    states: Tensor | None


def positions_of(asked: bool | Sequence[int], length: int) -> list[int]:
    """The positions whose states are asked for, counted from 0, in the order asked for."""
    if isinstance(asked, bool):
        return list(range(length)) if asked else []
    for position in asked:
        if not -length <= position < length:
            remedy = f"Pass positions from {-length} to {length - 1}."
            raise InputError("return_states", position, f"the scan has {length} positions", remedy)
    return [position % length for position in asked]


def slots(read: list[int], length: int) -> np.ndarray:
    """For each position the index of its state among those read, or -1; int32."""
    by_position = np.full(length, -1, np.int32)
    by_position[read] = np.arange(len(read))
    return by_position
