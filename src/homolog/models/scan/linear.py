"""What a changed write does to later states, without running the scan again.

The recurrence of `selective.py` is linear in its writes and its initial state.  When the state at
position s changes by delta[d, n] (because the write at s did, or the state itself was edited
there), then

    change of h[t, d, n] = delta[d, n] * exp(A[d, n] * sum over s < r <= t of dt[r, d])   t >= s

whatever the other writes are: the change times the product of the decays between s and t.  Several
edits add up.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from homolog.errors import InputError

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
