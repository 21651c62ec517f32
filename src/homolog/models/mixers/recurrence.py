"""A recurrence position by position, where a run edits what stands inside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from homolog.models.taps import Taps


class Start(NamedTuple):
    """What a scan up to the first edited position gives.

    readouts  (batch, position, ...) up to there;  states  those wanted before it, or None
    state     the state that the first edited position finds
    """

    readouts: Tensor
    states: Tensor | None
    state: Tensor


def recur(
    first: Start,
    steps: range,
    step: Callable[[int, Tensor], Tensor],
    read: Callable[[int, Tensor], Tensor],
    layer: int,
    taps: Taps,
) -> Tensor:
    """Readouts of all positions; from `steps.start` on with the edits at the site `state`.

    step   the state after a position, from that before it;   read   its readout (batch, ...)
    States have the axes of the site, (batch, d_inner, d_state).
    """
    length = steps.stop
    wanted = taps.read_positions("state", layer, length)
    states = [] if first.states is None else list(first.states.unbind(1))
    state, readouts = first.state, [first.readouts]
    for t in steps:
        state = taps.at("state", layer, t, length, step(t, state))
        readouts.append(read(t, state)[:, None])
        if t in wanted:
            states.append(state)
    if wanted:
        taps.store("state", layer, wanted, torch.stack(states, 1), length)
    return torch.cat(readouts, 1)
