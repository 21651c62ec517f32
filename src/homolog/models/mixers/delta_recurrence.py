"""The recurrence of the gated delta rule by itself: writes, states and readouts of its inputs.

    S'    = decay * S[t-1]
    write = beta k (v - S'^T k)^T        S[t] = S' + write        y = S[t]^T q / sqrt(d_key)

for each head.  States are (..., d_inner, d_state), d_inner being the value channels of all heads in
turn and d_state the key channels of a head; the scan has them by head and transposed.
`delta_rule.py` has the mixer around it, `scan/delta.py` the sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from homolog.models.mixers.recurrence import Start
from homolog.models.scan import delta_carry, delta_scan
from homolog.models.widening import widened

LENGTH_EPS = 1e-6  # of all families' kernels


class DeltaInputs(NamedTuple):
    """What drives it at some positions; heads of values share those of queries and keys in turn.

    query, key (..., key head, d_key), value (..., head, d_value), beta (..., head),
    decay (..., head, 1), or (..., head, d_key) where it is one of each key channel
    """

    query: Tensor
    key: Tensor
    value: Tensor
    beta: Tensor
    decay: Tensor

    def at(self, positions: slice | int) -> DeltaInputs:
        """The same at some positions of a window (batch, position, ...) alone."""
        return DeltaInputs(*(t[:, positions] for t in self))

    def decayed(self, state: Tensor) -> Tensor:
        """What a position finds of the state before it."""
        return (self._by_head(state) * self.decay.unsqueeze(-2)).flatten(-3, -2)

    def write(self, decayed: Tensor) -> Tensor:
        """What it adds to that."""
        missing = widened(self.value) - self._under(decayed, self.key)
        change = self.beta.unsqueeze(-1) * missing
        return (change.unsqueeze(-1) * self._each_head(self.key).unsqueeze(-2)).flatten(-3, -2)

    def step(self, state: Tensor) -> Tensor:
        """The state after a position, from that before it."""
        decayed = self.decayed(state)
        return decayed + self.write(decayed)

    def read(self, state: Tensor) -> Tensor:
        """y (..., d_inner)."""
        return self._under(state, self.query).flatten(-2) * self._scale

    def reading(self) -> Tensor:
        """What reads a state, for each head of values: q / sqrt(d_key), (..., head, d_key)."""
        return self._each_head(self.query) * self._scale

    def back(self, reading: Tensor) -> tuple[Tensor, Tensor]:
        """How much a reading finds of the position's v, and how it reads the state before.

        The weight is beta r k, (..., head); before, (r - weight k) times the decay is read.
        """
        key = self._each_head(self.key)
        weight = self.beta * (reading * key).sum(-1)
        return weight, (reading - weight.unsqueeze(-1) * key) * self.decay

    def scan(self, read: Sequence[int] = ()) -> tuple[Tensor, Tensor, Tensor | None]:
        """y, the last state, and the states of those positions, None where there are none."""
        q, v = self.query * self._scale, widened(self.value)
        result = delta_scan(
            q, self.key, v, self.beta, self._log_decay(), return_states=read or False
        )
        states = None if result.states is None else result.states.mT.flatten(-3, -2)
        return result.y.flatten(-2), result.last_state.mT.flatten(-3, -2), states

    def until(
        self, stop: int, read: Sequence[int], written: Sequence[int]
    ) -> tuple[Start, list[Tensor]]:
        """The scan up to `stop`, with the states and the writes of those positions before it."""
        read, written = ([p for p in asked if p < stop] for asked in (read, written))
        needed = sorted({*read, *(p - 1 for p in written if p)})
        y, last, states = self.at(slice(stop)).scan(needed)
        each = [] if states is None else list(states.unbind(1))
        after = dict(zip(needed, each, strict=True)) | {-1: torch.zeros_like(last)}
        writes = [self.at(p).write(self.at(p).decayed(after[p - 1])) for p in written]
        return Start(y, torch.stack([after[p] for p in read], 1) if read else None, last), writes

    def carry(self, change: Tensor, start: Tensor, stop: int) -> Tensor:
        """What a change of the state after `start` has become after `stop`."""
        by_head, log_decay = self._by_head(change).mT, self._log_decay()
        carried = delta_carry(by_head, self.key, self.beta, log_decay, start, stop)
        return carried.mT.flatten(-3, -2)

    @property
    def _scale(self) -> float:
        return self.key.shape[-1] ** -0.5

    def _log_decay(self) -> Tensor:
        # no -inf, whose gradient would not be finite
        return self.decay.clamp(min=torch.finfo(self.decay.dtype).tiny).log()

    def _by_head(self, state: Tensor) -> Tensor:
        """A state (..., head, d_value, d_key)."""
        return state.unflatten(-2, (self.value.shape[-2], -1))

    def _each_head(self, x: Tensor) -> Tensor:
        """Queries or keys once for each head of values."""
        shared = self.value.shape[-2] // x.shape[-2]
        return x if shared == 1 else x.repeat_interleave(shared, dim=-2)

    def _under(self, state: Tensor, key: Tensor) -> Tensor:
        """What a state holds under a key of each head, (..., head, d_value)."""
        return (self._by_head(state) @ self._each_head(key).unsqueeze(-1)).squeeze(-1)


def of_length_one(x: Tensor) -> Tensor:
    """Queries or keys over their length, along the last axis."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + LENGTH_EPS)
