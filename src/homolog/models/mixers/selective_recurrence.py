"""The recurrence of Mamba-1 by itself, and the sites in it.

    A_bar = exp(dt A),  B_bar = dt B                        A_bar, B_bar
    write = B_bar u                                         write
    state = A_bar * (state before) + write                  state
    y     = sum over d_state of state * C

The scan never holds the state of every position unless a run reads it.  Where a run edits one of
these sites, that layer runs the plain recurrence from the first edited position on, and the scan up
to there.  `selective_scan.py` has the mixer around it, `scan/selective.py` the source.
"""

from __future__ import annotations

import torch
from torch import Tensor

from homolog.models.mixers.recurrence import Start, recur
from homolog.models.scan import ScanInputs, selective_scan
from homolog.models.taps import Taps

# sites with a state of every channel at every position
RECURRENCE = ("A_bar", "B_bar", "write", "state")


def discretise(u: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A_bar = exp(dt A), B_bar = dt B and the write B_bar u, (..., d_inner, d_state) each.

    u and dt (..., d_inner), A (d_inner, d_state), B (..., d_state).
    """
    B_bar = dt.unsqueeze(-1) * B.unsqueeze(-2)
    return torch.exp(dt.unsqueeze(-1) * A), B_bar, B_bar * u.unsqueeze(-1)


def tapped_scan(inputs: ScanInputs, layer: int, taps: Taps) -> Tensor:
    """y (batch, position, d_inner), with what a run reads and edits on the way."""
    length = inputs.u.shape[1]
    edited = taps.edited_positions(RECURRENCE, layer, length)
    if edited:
        return _recur(inputs, edited[0], layer, taps)
    _read_discretised(inputs, layer, taps)
    wanted = taps.read_positions("state", layer, length)
    result = selective_scan(*inputs, return_states=wanted or False)
    if result.states is not None:
        taps.store("state", layer, wanted, result.states, length)
    return result.y


def _read_discretised(inputs: ScanInputs, layer: int, taps: Taps) -> None:
    length = inputs.u.shape[1]
    for part, kind in enumerate(RECURRENCE[:3]):
        if at := taps.read_positions(kind, layer, length):
            u, dt, A, B, _ = inputs.at(at)
            taps.store(kind, layer, at, discretise(u, dt, A, B)[part], length)


def _recur(inputs: ScanInputs, start: int, layer: int, taps: Taps) -> Tensor:
    """y of the plain recurrence, with edits in it from `start` on; up to there of the scan."""
    u, dt, A, B, C = inputs
    length = u.shape[1]
    A_bar, B_bar, _ = discretise(u, dt, A, B)
    A_bar, B_bar = taps("A_bar", layer, A_bar), taps("B_bar", layer, B_bar)
    write = taps("write", layer, B_bar * u.unsqueeze(-1))
    early = [p for p in taps.read_positions("state", layer, length) if p < start]
    scanned = selective_scan(*inputs.at(slice(start)), return_states=early or False)
    return recur(
        Start(scanned.y, scanned.states, scanned.last_state),
        range(start, length),
        lambda t, state: A_bar[:, t] * state + write[:, t],
        lambda t, state: (state * C[:, t, None]).sum(-1),
        layer,
        taps,
    )
