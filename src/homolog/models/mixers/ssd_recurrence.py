"""The recurrence of Mamba-2 by itself: writes, states and readouts of what drives it.

    state = exp(dt * A) * (state before) + dt * x B^T        y = state C        for each head

States are (..., d_inner, d_state), d_inner being the value channels of all heads in turn; the scan
has them by head and transposed.  `ssd.py` has the mixer around it, and the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from homolog.models.scan import linear_carry, linear_scan
from homolog.models.widening import widened


class SSDInputs(NamedTuple):
    """What drives it at some positions; heads share B and C in groups of neighbours.

    x (..., d_inner), dt (..., head), B and C (..., group * d_state), A (head,)
    """

    x: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor
    A: Tensor
    groups: int

    def at(self, positions: list[int] | slice | int) -> SSDInputs:
        """The same at some positions of a window (batch, position, ...) alone."""
        x, dt, B, C = (t[:, positions] for t in self[:4])
        return self._replace(x=x, dt=dt, B=B, C=C)

    @property
    def decay(self) -> Tensor:
        """(..., head)."""
        return torch.exp(self.dt * self.A)

    @property
    def write(self) -> Tensor:
        """What a position adds to the state."""
        by_head = self._scaled_x().unsqueeze(-1) * self.each_head(self.B).unsqueeze(-2)
        return by_head.flatten(-3, -2)

    def step(self, state: Tensor) -> Tensor:
        """The state after a position, from that before it."""
        return scale_heads(state, self.decay) + self.write

    def read(self, state: Tensor) -> Tensor:
        """y (..., d_inner)."""
        by_head = state.unflatten(-2, (len(self.A), -1))
        return torch.einsum("...hvn,...hn->...hv", by_head, self.each_head(self.C)).flatten(-2)

    def scan(self, read: Sequence[int] = ()) -> tuple[Tensor, Tensor, Tensor | None]:
        """y, the last state, and the states of those positions, None where there are none."""
        q, k = (t.unflatten(-1, (self.groups, -1)) for t in (self.C, self.B))
        v, log_decay = self._scaled_x(), self._log_decay()
        result = linear_scan(q, k, v, log_decay, return_states=read or False)
        states = None if result.states is None else result.states.mT.flatten(-3, -2)
        return result.y.flatten(-2), result.last_state.mT.flatten(-3, -2), states

    def carry(self, change: Tensor, start: Tensor, stop: int) -> Tensor:
        """What a change of the state after `start` has become after `stop`."""
        by_head = change.unflatten(-2, (len(self.A), -1))
        return linear_carry(by_head, self._log_decay(), start, stop).flatten(-3, -2)

    def _log_decay(self) -> Tensor:
        return (self.dt * self.A)[..., None, None]

    def _scaled_x(self) -> Tensor:
        """dt * x, (..., head, d_v)."""
        return widened(self.x).unflatten(-1, (len(self.A), -1)) * self.dt.unsqueeze(-1)

    def each_head(self, t: Tensor) -> Tensor:
        """B or C once for each head, (..., head, d_state)."""
        shared = len(self.A) // self.groups
        return t.unflatten(-1, (self.groups, -1)).repeat_interleave(shared, -2)


def scale_heads(state: Tensor, factor: Tensor) -> Tensor:
    """A state times a factor (..., head)."""
    by_head = state.unflatten(-2, (factor.shape[-1], -1))
    return (by_head * factor[..., None, None]).flatten(-3, -2)
