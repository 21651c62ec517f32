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
the position writes (`linear_mixer.py`).  Then the change of one write is carried to the end by the
maps of the positions between, without running the recurrence again.

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
Rotary = tuple[Tensor, ...] | None
"""Cosines and sines of positions (..., position, rotary dimensions); None where none rotates."""
Context = Mapping[str | None, Rotary]
"""Rotary tables of the positions at hand, by kind of block, None where all blocks share them; and
what else blocks read of a position, by names of their own.
"""
EMBEDDED = "embedded"
"""What block 0 read, (..., d_model), of blocks that read it again."""
Norm = Callable[[Tensor], Tensor]


class Branch(ABC):
    """A part of a block that reads the stream and adds to it: a mixer, or an MLP.

    layer    index of its block
    sites    kinds of its sites, in the order in which a pass reaches them
    stream   the kind at which it reads the stream, before its norm
    out      the kind of what it adds to the stream
    neurons  kinds whose values together are its neurons [Wang 2025]
    aside    whether what it gives is not added to the stream, but read by the next step alone
    beside   the kind at which it reads the embeddings beside the stream, if it does
    """

    layer: int
    sites: tuple[str, ...]
    stream: str
    out: str
    neurons: tuple[str, ...] = ()
    aside: bool = False
    beside: str | None = None

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


def at_positions(inputs: Inputs, positions: Tensor) -> Inputs:
    """The inputs at each prompt's position, (prompt, ...)."""
    each = torch.arange(len(positions), device=positions.device)
    return {kind: value[each, positions] for kind, value in inputs.items()}
