"""The parts that move information between positions, their names and their heads.

A part is a mixer, or one head of it, and goes by its readout: z.LAYER.HEAD of attention, y.LAYER of
a recurrence.  A recurrence has a name for its state and for what a position adds to it, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from homolog.models.decoder import Decoder
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.base import Inputs, Mixer
from homolog.models.mixers.linear_mixer import LinearMixer
from homolog.models.mixers.one_head import OneHead

Part = tuple[Mixer, int]
"""A mixer and the index of its head, 0 where nothing is read by head."""


def parts_of(model: Decoder) -> list[Part]:
    """All mixers and heads, in the order of the pass."""
    return [(mixer, head) for mixer in model.mixers() for head in range(mixer.n_heads)]


def part_name(mixer: Mixer, head: int = 0) -> str:
    """Its readout's name: z.2.3, or y.2 where nothing is read by head."""
    name = f"{mixer.readout}.{mixer.layer}"
    return f"{name}.{head}" if mixer.n_heads > 1 else name


def state_name(mixer: LinearMixer) -> str:
    """The name of its state: state.2."""
    return f"{mixer.state}.{mixer.layer}"


def write_name(mixer: LinearMixer) -> str:
    """The name of what a position adds to its state: write.2."""
    return f"{mixer.write}.{mixer.layer}"


def heads_by_mixer(parts: Sequence[Part]) -> dict[Mixer, list[int]]:
    """The heads of each mixer among some parts."""
    mixers = dict.fromkeys(mixer for mixer, _ in parts)
    return {mixer: [head for one, head in parts if one is mixer] for mixer in mixers}


def by_sender(mixer: Mixer, readout: Tensor, heads: Sequence[int]) -> Tensor:
    """(sender, prompt, ...) of readouts (prompt, ...): one head each, or the mixer's."""
    return readout[:, list(heads)].transpose(0, 1) if mixer.n_heads > 1 else readout[None]


def narrowed(part: Part, inputs: Inputs) -> Inputs:
    """What the part's head alone takes in, where it has heads."""
    mixer, head = part
    return OneHead(mixer, head).narrowed(inputs) if isinstance(mixer, Attention) else inputs
