"""What a changed write does to later states and outputs, without running the scan again.

The recurrence of `selective.py` is linear in its writes and its initial state.  When the state at
position s changes by delta[d, n] (because the write at s did, or the state itself was edited
there), then

    change of h[t, d, n] = delta[d, n] * exp(A[d, n] * sum over s < r <= t of dt[r, d])   t >= s
    change of y[t, d]    = sum over n of C[t, n] * change of h[t, d, n]           t >= s, else 0

whatever the other writes are.  The first is the product of the decays between s and t.  Several
edits add up.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from homolog.errors import InputError
from homolog.models.scan.selective import selective_scan

Position = int | Int[Tensor, "..."]


def propagate(
    delta: Float[Tensor, "*patch batch d_inner d_state"],
    dt: Float[Tensor, "batch position d_inner"],
    A: Float[Tensor, "d_inner d_state"],
    start: Position,
    stop: Position,
) -> Float[Tensor, "*patch batch d_inner d_state"]:
    """What the change `delta` of the state at `start` has become at `stop`, the same or later.

    `start` and `stop` are one position for all rows (a negative one counts from the end), or int64
    Tensors (batch,) or (*patch, batch) of positions from 0.  The dt between the two are summed in
    float64 and by themselves, not as a difference of running sums, so that the result is exact to
    rounding.  Differentiable in delta, dt and A.
    Errors: InputError when a position lies outside, or `stop` before `start`.
    """
    length = dt.shape[1]
    start, stop = positions_between(start, stop, delta.shape[:-2], length)
    if isinstance(start, int) and isinstance(stop, int):
        between = dt[:, start + 1 : stop + 1].sum(1, dtype=torch.float64)
    else:
        t = torch.arange(length, device=dt.device)
        inside = (t > column(start, t)) & (t <= column(stop, t))
        between = torch.einsum("...bt,btd->...bd", inside.double(), dt.double())
    return delta * torch.exp(A.double() * between[..., None]).to(delta.dtype)


def response(
    delta: Float[Tensor, "*patch batch d_inner d_state"],
    dt: Float[Tensor, "batch position d_inner"],
    A: Float[Tensor, "d_inner d_state"],
    C: Float[Tensor, "batch position d_state"],
    start: Position,
) -> Float[Tensor, "*patch batch position d_inner"]:
    """The change of y at every position when the state at `start` changes by `delta`.

    It is zero before `start`, where nothing is computed; no state is kept.  Positions are given as
    in `propagate`.  Differentiable in delta, dt, A and C.
    Errors: InputError when a position lies outside.
    """
    length = dt.shape[1]
    start = position_of("start", start, delta.shape[:-2], length)
    patches, rows = delta.shape[:-3], delta.shape[-3:]
    flat = delta.reshape(-1, *rows)
    if isinstance(start, int):
        parts = [_response_from(one, dt, A, C, start) for one in flat]
    else:
        starts = start.expand(*patches, rows[0]).reshape(-1, rows[0])
        parts = [_response_by_row(one, dt, A, C, s) for one, s in zip(flat, starts, strict=True)]
    if not parts:
        return delta.new_zeros(*patches, *dt.shape)
    return torch.stack(parts).reshape(*patches, *dt.shape)


def _response_from(delta: Tensor, dt: Tensor, A: Tensor, C: Tensor, start: int) -> Tensor:
    first = (delta * C[:, start, None, :]).sum(-1)[:, None]
    dt, C = dt[:, start + 1 :], C[:, start + 1 :]
    rest = selective_scan(torch.zeros_like(dt), dt, A, torch.zeros_like(C), C, delta).y
    return torch.cat([first.new_zeros(first.shape[0], start, first.shape[2]), first, rest], 1)


def _response_by_row(delta: Tensor, dt: Tensor, A: Tensor, C: Tensor, starts: Tensor) -> Tensor:
    """Each row is shifted so that its start stands first, and the outputs are shifted back."""
    length = dt.shape[1]
    t = torch.arange(length, device=dt.device)
    shifted = (starts[:, None] + t[: length - int(starts.min())]).clamp(max=length - 1)
    dt = torch.take_along_dim(dt, shifted[..., None], 1)
    # no decay at the start itself: exp(0) = 1
    dt = torch.cat([torch.zeros_like(dt[:, :1]), dt[:, 1:]], 1)
    C = torch.take_along_dim(C, shifted[..., None], 1)
    y = selective_scan(torch.zeros_like(dt), dt, A, torch.zeros_like(C), C, delta).y
    back = t - starts[:, None]
    y = torch.take_along_dim(y, back.clamp(min=0, max=y.shape[1] - 1)[..., None], 1)
    return torch.where((back >= 0)[..., None], y, 0.0)


def positions_between(
    start: Position, stop: Position, rows: torch.Size, length: int
) -> tuple[Position, Position]:
    """Both, counted from 0, for changes of shape `rows` (*patch, batch); refused as documented."""
    start, stop = (
        position_of(name, value, rows, length) for name, value in (("start", start), ("stop", stop))
    )
    if not bool(torch.all(torch.as_tensor(stop - start) >= 0)):
        requirement = f"a change at {start} acts on later states only"
        raise InputError("stop", stop, requirement, "Pass stop >= start.")
    return start, stop


def position_of(name: str, value: Position, rows: torch.Size, length: int) -> Position:
    """One position, or one for each row, counted from 0."""
    if isinstance(value, int):
        if not -length <= value < length:
            requirement = f"there are {length} positions"
            raise InputError(name, value, requirement, f"Pass one of {-length} to {length - 1}.")
        return value % length
    shapes = [tuple(rows[-1:]), tuple(rows)]
    if tuple(value.shape) not in shapes:
        requirement = f"the shape must be one of {shapes}"
        raise InputError(name, tuple(value.shape), requirement, "Pass a position per row.")
    if value.numel() and not (int(value.min()) >= 0 and int(value.max()) < length):
        requirement = f"there are {length} positions"
        raise InputError(name, value.tolist(), requirement, f"Pass 0 to {length - 1}.")
    return value


def column(value: Position, like: Tensor) -> Tensor:
    """With an axis for what it is compared with."""
    return torch.as_tensor(value, device=like.device)[..., None]
