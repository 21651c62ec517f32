"""Mixers whose memory is linear: what is the same for all of them.

    state[t] = M[t] state[t-1] + write[t]

M and the write hang on what the position enters with.  So the change of one write is carried to the
end by the maps of the positions between, and what reads a state is taken back by them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from homolog.models.mixers.base import Inputs, Mixer, at_positions


class LinearMixer(Mixer):
    """A mixer whose state after a step is linear in the state before and in what is written.

    state    the kind of its state
    write    the kind of what a position adds to it
    """

    state: ClassVar[str] = "state"
    write: ClassVar[str] = "write"

    def state_kinds(self, position: int) -> list[tuple[str, int]]:
        """Kinds and positions that a run captures so that `state_of` knows the state there."""
        return [(self.state, position)]

    def state_of(self, values: Sequence[Tensor]) -> Tensor:
        """The state as `step` takes it, from what was captured at `state_kinds`."""
        return values[0]

    @abstractmethod
    def states(self, inputs: Inputs, positions: Sequence[int]) -> Tensor:
        """The state after those positions, (batch, len(positions), ...)."""

    @abstractmethod
    def step(self, state: Tensor, at: Inputs) -> Tensor:
        """The state after a position, from that before it (..., prompt, *state)."""

    @abstractmethod
    def carry(self, change: Tensor, inputs: Inputs, start: Tensor, stop: int) -> Tensor:
        """What the change of the state after position `start` has become after `stop`.

        change (..., prompt, *state), start (prompt,)
        """

    def reading(self, at: Inputs) -> Tensor:
        """What a position reads a state with, (..., prompt, head, key dimensions)."""
        raise NotImplementedError(f"{self.kind} has no attention")

    def back(self, reading: Tensor, at: Inputs) -> tuple[Tensor, Tensor]:
        """The weight of what a position carries, and what reads the state before it.

        reading  what reads the state after it, (..., prompt, head, key dimensions)
        """
        raise NotImplementedError(f"{self.kind} has no attention")

    def attention(
        self, inputs: Inputs, queries: Sequence[int], removed: Tensor | None = None
    ) -> Tensor:
        """As the base says, by taking what each position reads with back through those before.

        state[s] = M[s] state[s-1] + key[s] carried[s]^T      readout[t] = state[t]^T reading[t]
        alpha[t, s] = reading[t]^T M[t] ... M[s+1] key[s]
        """
        length = next(iter(inputs.values())).shape[1]
        at = [query % length for query in queries]
        started = sorted(set(at), reverse=True)  # the order of the readings below
        readings: Tensor | None = None
        by_key = []
        for s in range(started[0], -1, -1):
            here = {kind: value[:, s] for kind, value in inputs.items()}
            if s in started:
                own = self.reading(here)[None]
                readings = own if readings is None else torch.cat([readings, own])
            assert readings is not None
            weights, readings = self.back(readings, here)
            missing = weights.new_zeros(len(started) - len(weights), *weights.shape[1:])
            by_key.append(torch.cat([weights, missing]))
        after = [torch.zeros_like(by_key[0])] * (length - 1 - started[0])
        every = torch.stack([*by_key[::-1], *after], -1)  # (query, batch, head, key_position)
        chosen = every[[started.index(query) for query in at]].movedim(0, 2)
        return chosen if removed is None else chosen.masked_fill(removed, 0)

    def stepped_change(self, before: Tensor, old: Inputs, new: Inputs) -> Tensor:
        """What a position that enters with `new` instead of `old` changes of the state after it."""
        return self.step(before, new) - self.step(before, old)

    def replayed(self, inputs: Inputs, old: Inputs, new: Inputs, share: Tensor) -> Tensor:
        """Readouts where each position takes a share of what `new` writes and `old` does not.

            state[t] = step(state[t-1], inputs[t]) + share[t] (write(new[t]) - write(old[t]))

        share (batch, position).  Maps and what reads are those of `inputs`.  Differentiable in the
        share.  This one goes position by position; a mixer may have a faster one.
        """
        zero = torch.zeros_like(self.states(inputs, [0])[:, 0])
        state, readouts = zero, []
        for t in range(share.shape[1]):
            at, before, after = (
                {kind: value[:, t] for kind, value in one.items()} for one in (inputs, old, new)
            )
            change = self.step(zero, after) - self.step(zero, before)
            amount = share[:, t].view(-1, *[1] * (zero.ndim - 1))
            state = self.step(state, at) + amount * change
            readouts.append(self.read(state, at))
        return torch.stack(readouts, 1)

    def memory(self, inputs: Inputs) -> Tensor:
        return self.states(inputs, [-1])[:, 0]

    def rewritten(self, inputs: Inputs, positions: Tensor, new: Inputs) -> Tensor:
        end = next(iter(inputs.values())).shape[1] - 1
        found = [max(0, int(p) - 1) for p in positions]
        needed = sorted({*found, end})
        states = self.states(inputs, needed)
        place = torch.tensor([needed.index(p) for p in found])
        # a prompt's first position finds no state
        started = (positions > 0).to(states).view(-1, *[1] * (states.ndim - 2))
        before = states[torch.arange(len(positions)), place] * started
        old = at_positions(inputs, positions)
        change = self.stepped_change(before, old, old | new)
        return states[:, -1] + self.carry(change, inputs, positions, end)
