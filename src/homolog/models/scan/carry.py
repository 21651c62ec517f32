"""What a changed state of linear attention or of the delta rule does later, without a second run.

Both recurrences are linear in their writes v and in the state.  When the state at position s
changes by D[s] (because the write at s did, or the state itself was edited there), then later

    D[t] = exp(log_decay[t]) * D[t-1]                              linear attention
         = (I - beta[t] k[t] k[t]^T) (exp(log_decay[t]) * D[t-1])  delta rule

whatever the other writes are.  Several edits add up.  In linear attention D[t] is D[s] times a
product of decays; the rest is the scan itself, with v = 0, from the state D[s].  `linear.py` is
the same for Mamba-1.

Columns of a state do not mix, so changes that start at the same positions are carried as columns of
one state.  Where rows of the batch differ in their positions, a step that is not between the two is
made one that changes nothing: no decay, and beta = 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from homolog.models.scan.inputs import MatrixInputs, ScanResult
from homolog.models.scan.linear import Position, column, positions_between
from homolog.models.scan.matrix import matrix_scan

SPAN = 256  # positions over which a change is carried at once: bounds what the scan's y needs


def linear_carry(
    delta: Float[Tensor, "*patch batch head d_k d_v"],
    log_decay: Float[Tensor, "batch position head _ _"],
    start: Position,
    stop: Position,
) -> Float[Tensor, "*patch batch head d_k d_v"]:
    """What the change `delta` of the state at `start` has become at `stop`, the same or later.

    `start` and `stop` are one position for all rows (a negative one counts from the end), or int64
    Tensors (batch,) or (*patch, batch) of positions from 0.  The logarithms between the two are
    summed in float64 and by themselves, not as a difference of running sums, so that the result is
    exact to rounding.  Differentiable in delta and log_decay.
    Errors: InputError when a position lies outside, or `stop` before `start`.
    """
    length = log_decay.shape[1]
    start, stop = positions_between(start, stop, delta.shape[:-3], length)
    if isinstance(start, int) and isinstance(stop, int):
        total = log_decay[:, start + 1 : stop + 1].sum(1, dtype=torch.float64)
    else:
        t = torch.arange(length, device=log_decay.device)
        inside = (t > column(start, t)) & (t <= column(stop, t))
        # minus infinity times "not inside" would be NaN: such decays are counted instead
        forgets = torch.isneginf(log_decay)
        finite, forgotten = (
            torch.einsum("...bt,bthkv->...bhkv", inside.double(), x.double())
            for x in (torch.where(forgets, 0.0, log_decay), forgets)
        )
        total = torch.where(forgotten > 0, -torch.inf, finite)
    return delta * torch.exp(total).to(delta.dtype)


def delta_carry(
    delta: Float[Tensor, "*patch batch head d_k d_v"],
    k: Float[Tensor, "batch position group d_k"],
    beta: Float[Tensor, "batch position head"],
    log_decay: Float[Tensor, "batch position head _"],
    start: Position,
    stop: Position,
) -> Float[Tensor, "*patch batch head d_k d_v"]:
    """The same as `linear_carry` for the delta rule.

    Differentiable in delta, k, beta and log_decay.
    """
    start, stop = positions_between(start, stop, delta.shape[:-3], k.shape[1])
    inputs = MatrixInputs(k, k, k, log_decay, beta)

    def carried(change: Tensor, start: Position, stop: Position) -> Tensor:
        end = _last(stop) + 1
        for span in range(_first(start) + 1, end, SPAN):
            steps = slice(span, min(span + SPAN, end))
            change = _scan(inputs, change, steps, start, stop).last_state
        return change

    return _by_patch(carried, delta, start, stop)


def _by_patch(
    of: Callable[[Tensor, Position, Position], Tensor],
    delta: Tensor,
    start: Position,
    stop: Position,
) -> Tensor:
    """of(change, start, stop) for all patches, as one change where they share both positions.

    `of` takes a change (batch, head, d_k, columns), and what it gives has columns last.
    """
    patches, d_v = delta.shape[:-4], delta.shape[-1]
    flat = delta.reshape(-1, *delta.shape[-4:])
    if not len(flat):
        start = stop = 0
    if all(isinstance(position, int) or position.ndim == 1 for position in (start, stop)):
        columns = of(flat.permute(1, 2, 3, 0, 4).flatten(3), start, stop)
        by_patch = columns.reshape(*columns.shape[:-1], len(flat), d_v).movedim(-2, 0)
        return by_patch.reshape(*patches, *by_patch.shape[1:])
    rows = (flat.shape[0], delta.shape[-4])
    starts, stops = (
        [position] * rows[0]
        if isinstance(position, int)
        else position.expand(delta.shape[:-3]).reshape(rows)
        for position in (start, stop)
    )
    by_patch = torch.stack([of(*patch) for patch in zip(flat, starts, stops, strict=True)])
    return by_patch.reshape(*patches, *by_patch.shape[1:])


def _scan(
    inputs: MatrixInputs, change: Tensor, steps: slice, start: Position, stop: Position
) -> ScanResult:
    """The scan over some steps from the state `change`, without writes.

    Steps that are not after `start` and up to `stop` change nothing.  v of the inputs is not used.
    """
    q, k, log_decay = (x[:, steps] for x in (inputs.q, inputs.k, inputs.log_decay))
    t = torch.arange(steps.start, steps.stop, device=change.device)
    inside = ((t > column(start, t)) & (t <= column(stop, t)))[..., None]
    log_decay = torch.where(inside.unflatten(-1, (1,) * (log_decay.ndim - 2)), log_decay, 0.0)
    if log_decay.ndim == 5 and log_decay.shape[4] > 1:
        log_decay = log_decay.repeat(1, 1, 1, 1, change.shape[3] // log_decay.shape[4])
    beta = None if inputs.beta is None else torch.where(inside, inputs.beta[:, steps], 0.0)
    v = change.new_zeros(change.shape[0], len(t), change.shape[1], change.shape[3])
    return matrix_scan(MatrixInputs(q, k, v, log_decay, beta), change, False, None)


def _first(position: Position) -> int:
    return position if isinstance(position, int) else int(position.min())


def _last(position: Position) -> int:
    return position if isinstance(position, int) else int(position.max())
