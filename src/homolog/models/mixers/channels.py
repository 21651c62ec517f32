"""Memories of single numbers: each has a decay of its own, and mixes with no other.

    state[t] = exp(log_decay[t]) * state[t-1] + write[t]

State and write are (batch, position, d_inner, d_state), and what a position reads is made of its
state alone, so that the scan gives all states at no further cost.  Edits of a write go through the
scan; where the state or its decay is edited, the plain recurrence runs from there on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from homolog.models.mixers.recurrence import Start, recur
from homolog.models.scan import linear_scan
from homolog.models.taps import Taps


def all_states(log_decay: Tensor, write: Tensor) -> Tensor:
    """The state after every position.

    log_decay: what broadcasts against write (batch, position, d_inner, d_state).
    """
    value = write.flatten(2)[:, :, None]
    decay = log_decay.expand_as(write).flatten(2)[:, :, None, None]
    one = torch.ones_like(value[..., :1])
    return linear_scan(one, one, value, decay).y.view(write.shape)


def tapped_states(
    log_decay: Tensor, write: Tensor, decay_kind: str | None, layer: int, taps: Taps
) -> Tensor:
    """The same through the sites write and state, and that of exp(log_decay) if there is one."""
    length = write.shape[1]
    write = taps("write", layer, write)
    kinds = ["state"] if decay_kind is None else ["state", decay_kind]
    edited = taps.edited_positions(kinds, layer, length)
    decay = None
    if edited or (decay_kind is not None and taps.touches(decay_kind, layer)):
        decay = torch.exp(log_decay)
        decay = decay if decay_kind is None else taps(decay_kind, layer, decay)
    if not edited:
        return taps("state", layer, all_states(log_decay, write))
    assert decay is not None
    start, decay = edited[0], decay.expand_as(write)
    before = all_states(log_decay.expand_as(write)[:, :start], write[:, :start])
    early = [p for p in taps.read_positions("state", layer, length) if p < start]
    found = before[:, -1] if start else torch.zeros_like(write[:, 0])
    return recur(
        Start(before, before[:, early], found),
        range(start, length),
        lambda t, state: decay[:, t] * state + write[:, t],
        lambda _t, state: state,
        layer,
        taps,
    )
