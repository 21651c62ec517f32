"""What a changed state becomes, against two runs of a loop that knows nothing of linearity."""

from __future__ import annotations

import math

import pytest
import torch
from tests.models.scan_kinds import KINDS, Kind, each_kind, state_of
from torch import Tensor

from homolog.errors import InputError
from homolog.models.scan import delta_carry, linear_carry

SHAPE = (3, 12, 1, 2, 4, 5)  # batch, length, groups, heads, d_k, d_v


def edited_run(kind: Kind, args: list[Tensor], edits: dict[tuple[int, int], Tensor]) -> Tensor:
    """All states of the recurrence; `edits`: {(row, position): change of the state}."""
    _, k, v, *_, log_decay = args
    heads = v.shape[2]
    S = torch.zeros_like(state_of(args))
    states = []
    for t in range(v.shape[1]):
        S = S * log_decay[:, t].exp().reshape(*S.shape[:2], *_broadcast(log_decay))
        for b in range(S.shape[0]):
            for h in range(heads):
                k_t, v_t = k[b, t, h * k.shape[2] // heads], v[b, t, h]
                if kind.name == "delta":
                    v_t = args[3][b, t, h] * (v_t - k_t @ S[b, h])
                S[b, h] += torch.outer(k_t, v_t)
            if (b, t) in edits:
                S[b] += edits[b, t]
        states.append(S.clone())
    return torch.stack(states, 1)


def _broadcast(log_decay: Tensor) -> tuple[int, ...]:
    return (*log_decay.shape[3:], 1) if log_decay.ndim == 4 else tuple(log_decay.shape[3:])


def carry(kind: Kind, args: list[Tensor], delta: Tensor, start: object, stop: object) -> Tensor:
    if kind.name == "linear":
        return linear_carry(delta, args[-1], start, stop)  # type: ignore[arg-type]
    return delta_carry(delta, args[1], *args[3:], start, stop)  # type: ignore[arg-type]


def changes(kind: Kind, seed: int = 5, patches: tuple[int, ...] = ()) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*patches, 3, 2, 4, 5, dtype=torch.float64, generator=g)


@each_kind
@pytest.mark.parametrize("starts", [(4, 4, 4), (0, 11, 6)])
def test_an_edited_state_carries_on_as_in_a_whole_run(kind, starts):
    args, delta = kind.inputs(SHAPE), changes(kind)
    clean = edited_run(kind, args, {})
    states = edited_run(kind, args, {(row, s): delta[row] for row, s in enumerate(starts)})
    start = starts[0] if len(set(starts)) == 1 else torch.tensor(starts)
    stop = torch.tensor([11, 11, 9])
    exact = {"rtol": 1e-10, "atol": 1e-12}
    change = carry(kind, args, delta, start, stop)
    torch.testing.assert_close(change, (states - clean)[torch.arange(3), stop], **exact)
    torch.testing.assert_close(
        carry(kind, args, delta, start, -1), (states - clean)[:, -1], **exact
    )
    torch.testing.assert_close(carry(kind, args, delta, start, start), delta, **exact)


@each_kind
def test_many_patches_at_once_each_with_its_own_start(kind):
    args, delta = kind.inputs(SHAPE), changes(kind, patches=(2, 2))
    own = torch.tensor([[[0, 1, 7], [2, 2, 2]], [[8, 3, 5], [5, 0, 10]]])
    for start in (own, own[1, 0], 2):
        after = carry(kind, args, delta, start, 10)
        assert after.shape == delta.shape
        for patch in ((0, 0), (0, 1), (1, 0), (1, 1)):
            from_here = start[patch] if start is own else start
            torch.testing.assert_close(after[patch], carry(kind, args, delta[patch], from_here, 10))
    stops = own + 1
    torch.testing.assert_close(
        carry(kind, args, delta, own, stops)[1, 1],
        carry(kind, args, delta[1, 1], own[1, 1], stops[1, 1]),
    )
    assert carry(kind, args, delta[:0], 2, 10).shape == (0, *delta.shape[1:])


@each_kind
def test_it_is_carried_over_spans_of_positions_as_in_one(kind):
    args = kind.inputs((1, 600, 1, 1, 2, 3))
    args[-1][:] /= 100
    delta = state_of(args)
    zero = [*args[:2], torch.zeros_like(args[2]), *args[3:]]
    whole = kind.run([x[:, 11:590] for x in zero], initial_state=delta)
    after = carry(kind, args, delta, 10, 589)
    torch.testing.assert_close(after, whole.last_state, rtol=1e-10, atol=0.0)


@each_kind
def test_nothing_is_carried_through_a_decay_of_minus_infinity(kind):
    args, delta = kind.inputs(SHAPE), changes(kind)
    args[-1][:, 6] = -math.inf
    for start in (4, torch.tensor([4, 5, 0])):
        assert not carry(kind, args, delta, start, 8).any()
    # the others start behind it
    after = carry(kind, args, delta, torch.tensor([6, 7, 0]), 8)
    assert bool(after[:2].isfinite().all()) and bool(after[:2].all()) and not after[2].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_carry_is_exact_to_rounding_after_many_positions(dtype):
    log_decay = torch.full((1, 2000, 1, 1, 1), -0.1, dtype=dtype)
    log_decay[0, 1995:] = -1e-4
    change = linear_carry(torch.ones(1, 1, 1, 1, dtype=dtype), log_decay, 1995, 1999)
    # four steps of 1e-4, after a sum of 199.5
    assert change.item() == pytest.approx(math.exp(-4e-4), rel=1e-7)


@each_kind
@pytest.mark.parametrize("start", [1, torch.tensor([3, 0])])
def test_carry_passes_gradcheck(kind, start):
    args = [t.requires_grad_() for t in kind.inputs((2, 5, 1, 1, 3, 2))]
    delta = torch.randn(2, 1, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda d, *given: carry(kind, list(given), d, start, 4), (delta, *args)
    )


def test_positions_that_cannot_be_are_named():
    kind = KINDS[-1]
    args = kind.inputs((2, 5, 1, 1, 3, 2))
    delta = state_of(args)
    with pytest.raises(InputError, match=r"start is 5, but there are 5 positions"):
        carry(kind, args, delta, 5, 5)
    with pytest.raises(InputError, match=r"stop is 1, but a change at 2"):
        carry(kind, args, delta, 2, 1)
    with pytest.raises(InputError, match=r"start is \[0, 7\], but there are 5 positions"):
        carry(kind, args, delta, torch.tensor([0, 7]), 4)
    with pytest.raises(InputError, match=r"start is \(3,\), but the shape must be one of \[\(2,\)"):
        carry(kind, args, delta, torch.tensor([0, 1, 2]), 4)
