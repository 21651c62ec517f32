"""Token mixers: the parts of a block that move information between positions, in one protocol.

At every position a mixer reads the residual stream, through its norm and a local part that may
reach a few positions back (convolution taps, a token shift).  It writes into a memory, which decays
or is overwritten on the way, and reads out of it; what it makes of that is added to the stream.

    inputs[t]   = enter(h[t], and what the local part keeps of the positions before)
    memory[t]   = step(memory[t-1], inputs[t])
    readout[t]  = read(memory[t], inputs[t])
    out[t]      = leave(inputs[t], readout[t])

    mixer              memory                         readout   local part
    attention          keys and values                z         none
    selective scan     a state for every channel      y         convolution

Most memories are linear: their state after a step is a linear map of the state before, plus what
the position writes (`LinearMixer`).  Then the change of one write is carried to the end by the maps
of the positions between, without running the recurrence again.

A mixer also runs a whole window, with sites in it that are read and edited: that is its call.  One
file per mixer; one mixer object per block, over the unmodified module of transformers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from homolog.models.taps import Taps

Inputs = dict[str, Tensor]
"""What a mixer uses at some positions, by kind of site."""
Rotary = tuple[Tensor, Tensor] | None
"""Cosines and sines of positions (..., position, rotary dimensions); None where none rotates."""
Context = Mapping[str | None, Rotary]
"""Rotary tables of the positions at hand, by kind of block, None where all blocks share them."""
Norm = Callable[[Tensor], Tensor]


class Branch(ABC):
    """A part of a block that reads the stream and adds to it: a mixer, or an MLP.

    layer    index of its block
    sites    kinds of its sites, in the order in which a pass reaches them
    stream   the kind at which it reads the stream, before its norm
    out      the kind of what it adds to the stream
    neurons  kinds whose values together are its neurons [Wang 2025]
    """

    layer: int
    sites: tuple[str, ...]
    stream: str
    out: str
    neurons: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, h: Tensor, context: Context, taps: Taps) -> Tensor:
        """What it adds to the stream h (batch, position, d_model), with its sites.

        An MLP takes any axes (..., d_model).
        """


class Mixer(Branch):
    """A part that reads other positions than its own.

    kind         its name
    readout      the kind of what is read out of the memory: what is held when paths are patched
    inputs       kinds that together are what a position enters with
    n_heads      heads that read out apart from each other; 1 where there are none
    """

    kind: ClassVar[str]
    readout: ClassVar[str]
    inputs: tuple[str, ...]
    n_heads: int = 1
    channelwise: ClassVar[bool] = False
    """Whether every channel of the memory is read with weights of its own."""
    reach: int = 0
    """How many positions back the local part reads."""
    local: str | None = None
    """The kind that the local part reads of them."""
    local_taps: str | None = None
    """The kind of what each of them brings."""
    local_out: str = ""
    """The kind of what they bring together."""

    @property
    def leaves_alone(self) -> bool:
        """Whether what it adds hangs on the readout alone, and on nothing else at its position."""
        return False

    @abstractmethod
    def enter(self, h: Tensor, context: Context) -> Inputs:
        """What every position enters with.  h (batch, position, d_model), from the window's start.

        The values are those of the kinds `inputs`, made ready for the memory (`prepared`).
        """

    def enter_at(self, h: Tensor, context: Context, past: Tensor | None) -> Inputs:
        """The same of one position per prompt.

        h     (..., prompt, d_model)
        past  the kind `local` at the `reach` positions before, (prompt, reach, ...), zeros before
              the window's start; None where there is no local part
        """
        return self.enter(h, context)

    def from_local(self, window: Tensor) -> Inputs:
        """What a position enters with that hangs on the local part.

        window  the kind `local` at the positions that it reads, (..., prompt, reach + 1, ...), its
                own last
        """
        raise NotImplementedError(f"{self.kind} has no local part")

    def prepared(self, values: Inputs, context: Context) -> Inputs:
        """Inputs from what a run captured at the kinds `inputs`."""
        return values

    @abstractmethod
    def memory(self, inputs: Inputs) -> Any:
        """The memory after the last position, from what all positions enter with."""

    @abstractmethod
    def read(self, memory: Any, at: Inputs) -> Tensor:
        """The readout (..., prompt, ...) of a memory by what a position enters with."""

    @abstractmethod
    def rewritten(self, inputs: Inputs, positions: Tensor, new: Inputs) -> Any:
        """The memory after the last position when one position of each prompt enters with `new`.

        positions (prompt,); new (..., prompt, ...): kinds that it lacks stay as they are.
        """

    def reread(self, inputs: Inputs, positions: Tensor, new: Inputs, end: Inputs) -> Tensor:
        """The readout at the last position of `rewritten`; `end` is what that position enters with.

        What reads is that of `end`, also where the position is the last one, unless a mixer says
        otherwise (a query of attention).
        """
        return self.read(self.rewritten(inputs, positions, new), end)

    @abstractmethod
    def leave(self, at: Inputs, readout: Tensor) -> Tensor:
        """What it adds to the stream (..., d_model), position by position."""

    def attention(
        self, inputs: Inputs, queries: Sequence[int], removed: Tensor | None = None
    ) -> Tensor:
        """Weights alpha with which positions read what positions carry; exact, no bias in it.

            readout[t] = sum over s of alpha[t, s] carried[s]  (+ bias)

        queries  the positions t that read
        removed  which of them do not hear which s, to broadcast to what is returned: those weigh
                 nothing, and weights that sum to one do so without them
        Returns (batch, head, query, key_position), in float32 or wider; where `channelwise` every
        channel is a head.  It is softmax attention's pattern, and what [Ali 2024], equation 12,
        call the hidden attention of a selective scan.

        Source: Ali, Zimerman and Wolf, "The Hidden Attention of Mamba Models", arXiv 2403.01590.
        """
        raise NotImplementedError(f"{self.kind} has no attention")

    def carried(self, inputs: Inputs) -> Tensor:
        """What `attention` weighs, (batch, position, head, width), in float32 or wider."""
        raise NotImplementedError(f"{self.kind} has no attention")

    def leave_heads(
        self, at: Inputs, readout: Tensor, heads: Sequence[int], new: Tensor, out: Tensor
    ) -> Tensor:
        """What it adds when one head reads out another value, (sender, prompt, d_model).

        readout  the clean readout (prompt, ...), and `out` what is added with it
        heads    the head of each sender
        new      its readout (sender, prompt, ...)
        """
        assert self.n_heads == 1
        return self.leave(at, new)


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
        length = next(iter(inputs.values())).shape[1]
        before = self.state_before(inputs, positions)
        old = at_positions(inputs, positions)
        change = self.stepped_change(before, old, old | new)
        return self.memory(inputs) + self.carry(change, inputs, positions, length - 1)

    def state_before(self, inputs: Inputs, positions: Tensor) -> Tensor:
        """The state that each prompt's position finds, (prompt, *state); zero at the start."""
        needed = sorted({max(0, int(p) - 1) for p in positions})
        states = self.states(inputs, needed)
        place = torch.tensor([needed.index(max(0, int(p) - 1)) for p in positions])
        found = states[torch.arange(len(positions)), place]
        started = (positions > 0).to(found)
        return found * started.view(-1, *[1] * (found.ndim - 1))


def at_positions(inputs: Inputs, positions: Tensor) -> Inputs:
    """The inputs at each prompt's position, (prompt, ...)."""
    each = torch.arange(len(positions), device=positions.device)
    return {kind: value[each, positions] for kind, value in inputs.items()}
