"""The scan against visible arithmetic, the per-position loop and autograd."""

import math

import pytest
import torch

from homolog.errors import InputError
from homolog.models.scan import propagate, selective_scan


def inputs(batch, length, d_inner, d_state, dtype, seed=0):
    g = torch.Generator().manual_seed(seed)
    u, B, C = (
        torch.randn(batch, length, n, dtype=dtype, generator=g) for n in (d_inner, d_state, d_state)
    )
    dt = torch.nn.functional.softplus(
        torch.randn(batch, length, d_inner, dtype=dtype, generator=g) - 1
    )
    A = -torch.exp(torch.randn(d_inner, d_state, dtype=dtype, generator=g))
    return u, dt, A, B, C


def test_visible_arithmetic():
    half = math.log(2.0)  # dt * A = -log 2 halves the state
    ones = torch.ones(1, 3, 1, dtype=torch.float64)
    result = selective_scan(
        4 * ones, ones, torch.tensor([[-half]], dtype=torch.float64), ones, ones, return_states=True
    )
    # h: 0/2 + 4 = 4, 4/2 + 4 = 6, 6/2 + 4 = 7
    assert result.y.flatten().tolist() == pytest.approx([4.0, 6.0, 7.0])
    assert result.states is not None and result.states.flatten().tolist() == pytest.approx(
        [4.0, 6.0, 7.0]
    )
    assert result.last_state.item() == pytest.approx(7.0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-6)])
@pytest.mark.parametrize("shape", [(2, 70, 100, 16), (1, 1, 1, 1), (3, 33, 64, 5)])
def test_equal_to_the_loop_with_gradients(dtype, tolerance, shape):
    leaves = [t.requires_grad_() for t in inputs(*shape, dtype)]
    ours, loop = selective_scan(*leaves), selective_scan(*leaves, backend="torch")
    scale = loop.y.abs().max()
    assert (ours.y - loop.y).abs().max() <= tolerance * scale
    weights = torch.randn_like(loop.y)
    for a, b in zip(
        torch.autograd.grad(ours.y, leaves, weights),
        torch.autograd.grad(loop.y, leaves, weights),
        strict=True,
    ):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_gradients_pass_gradcheck():
    leaves = [t.requires_grad_() for t in inputs(2, 5, 3, 2, torch.float64)]
    assert torch.autograd.gradcheck(lambda *a: selective_scan(*a).y, leaves)


def test_gradients_of_states_and_initial_state_pass_gradcheck():
    leaves = [t.requires_grad_() for t in inputs(2, 5, 3, 2, torch.float64)]
    start = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)

    def outputs(start, *args):
        result = selective_scan(*args, initial_state=start, return_states=[3, 0])
        return result.y, result.last_state, result.states

    assert torch.autograd.gradcheck(outputs, [start, *leaves])


@pytest.mark.parametrize("outputs", ["last_state", "states"])
def test_gradients_across_chunks_equal_the_loop(outputs):
    leaves = [t.requires_grad_() for t in inputs(2, 75, 70, 5, torch.float64)]
    leaves.append(torch.randn(2, 70, 5, dtype=torch.float64, requires_grad=True))
    read = [74, 3, 31, 32, 3]
    ours, loop = (
        getattr(
            selective_scan(*leaves[:5], initial_state=leaves[5], return_states=read, backend=b),
            outputs,
        )
        for b in ("numba", "torch")
    )
    torch.testing.assert_close(ours, loop)
    weights = torch.randn_like(loop)
    kept = [leaf for i, leaf in enumerate(leaves) if i != 4]  # C plays no part in states
    for a, b in zip(
        torch.autograd.grad(ours, kept, weights),
        torch.autograd.grad(loop, kept, weights),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_states_are_read_at_the_positions_asked_for_in_their_order(backend):
    args = inputs(2, 20, 70, 4, torch.float32)
    all_states = selective_scan(*args, return_states=True, backend=backend).states
    asked = selective_scan(*args, return_states=[7, -1, 0, 7], backend=backend).states
    assert torch.equal(asked, all_states[:, [7, 19, 0, 7]])
    assert selective_scan(*args, return_states=[], backend=backend).states.shape == (2, 0, 70, 4)


def test_a_position_outside_is_named():
    with pytest.raises(
        InputError, match=r"return_states is 4, but the scan has 4 positions.*-4 to 3"
    ):
        selective_scan(*inputs(1, 4, 2, 2, torch.float32), return_states=[0, 4])


def test_states_equal_prefix_runs_and_continue():
    u, dt, A, B, C = inputs(2, 20, 70, 4, torch.float32)
    whole = selective_scan(u, dt, A, B, C, return_states=True)
    for t in (1, 7, 20):
        prefix = selective_scan(u[:, :t], dt[:, :t], A, B[:, :t], C[:, :t])
        torch.testing.assert_close(whole.states[:, t - 1], prefix.last_state)
    rest = selective_scan(
        u[:, 7:], dt[:, 7:], A, B[:, 7:], C[:, 7:], initial_state=whole.states[:, 6]
    )
    torch.testing.assert_close(rest.y, whole.y[:, 7:])


def test_exp_is_accurate_over_its_range():
    x = torch.linspace(-86, 0, 20001)[None, :, None]  # one position each: h = exp(dt * A) * 1
    start = torch.ones(1, 20001, 1)
    decays = selective_scan(
        torch.zeros(1, 1, 20001),
        -x.transpose(1, 2),
        -torch.ones(20001, 1),
        torch.ones(1, 1, 1),
        torch.ones(1, 1, 1),
        start,
    )
    exact = torch.exp(x.double()).flatten()
    error = ((decays.y.flatten().double() - exact) / exact).abs()
    assert (
        error <= 5e-7 + 1.6e-7 * x.flatten().abs()
    ).all()  # the second part: A log2(e), and its product with dt


def test_threads_do_not_change_the_result():
    args = inputs(3, 40, 200, 8, torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = selective_scan(*args).y
        torch.set_num_threads(2)
        two = selective_scan(*args).y
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, two)


def test_a_wrong_initial_state_is_named():
    args = inputs(2, 4, 6, 3, torch.float32)
    with pytest.raises(ValueError, match=r"initial_state.*\(2, 3, 6\).*\(2, 6, 3\)"):
        selective_scan(*args, initial_state=torch.zeros(2, 3, 6))


def edited_run(u, dt, A, B, writes):
    """All states of the recurrence; `writes`: {(row, position): change of the write}."""
    batch, length, d_inner = u.shape
    h = torch.zeros(batch, d_inner, A.shape[1], dtype=u.dtype)
    states = []
    for t in range(length):
        h = (
            h * (dt[:, t, :, None] * A).exp()
            + dt[:, t, :, None] * u[:, t, :, None] * B[:, t, None, :]
        )
        h = h + torch.stack([writes.get((row, t), torch.zeros_like(h[0])) for row in range(batch)])
        states.append(h)
    return torch.stack(states, 1)


@pytest.mark.parametrize("starts", [(4, 4, 4), (0, 11, 6)])
def test_an_edited_write_propagates_as_in_a_whole_run(starts):
    *args, _ = inputs(3, 12, 5, 4, torch.float64)
    _, dt, A, _ = args
    delta = torch.randn(3, 5, 4, dtype=torch.float64)
    clean_states = edited_run(*args, {})
    states = edited_run(*args, {(row, s): delta[row] for row, s in enumerate(starts)})
    start = starts[0] if len(set(starts)) == 1 else torch.tensor(starts)
    stop = torch.tensor([11, 11, 9])
    change = propagate(delta, dt, A, start, stop)
    rows = torch.arange(3)
    torch.testing.assert_close(change, (states - clean_states)[rows, stop], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        propagate(delta, dt, A, start, -1), (states - clean_states)[:, -1], rtol=1e-10, atol=1e-12
    )


def test_propagation_is_exact_to_rounding_after_many_positions():
    dt = torch.full((1, 2000, 1), 0.1)
    dt[0, 1995:] = 1e-4
    change = propagate(torch.ones(1, 1, 1), dt, -torch.ones(1, 1), 1995, 1999)
    # four steps of 1e-4, after a sum of 199.5
    assert change.item() == pytest.approx(math.exp(-4e-4), rel=1e-7)


def test_many_patches_at_once_each_with_its_own_start():
    _, dt, A, _, _ = inputs(2, 9, 5, 3, torch.float64)
    delta = torch.randn(4, 2, 5, 3, dtype=torch.float64)
    start = torch.tensor([[0, 1], [2, 2], [8, 3], [5, 0]])
    after = propagate(delta, dt, A, start, 8)
    assert after.shape == delta.shape
    for p in range(4):
        torch.testing.assert_close(after[p], propagate(delta[p], dt, A, start[p], 8))
    torch.testing.assert_close(propagate(delta, dt, A, 2, 8)[1], after[1])


@pytest.mark.parametrize("start", [1, torch.tensor([3, 0])])
def test_propagation_passes_gradcheck(start):
    _, dt, A, _, _ = (t.requires_grad_() for t in inputs(2, 5, 3, 2, torch.float64))
    delta = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: propagate(*a, start, 4), (delta, dt, A))


def test_positions_that_cannot_be_are_named():
    _, dt, A, _, _ = inputs(2, 5, 3, 2, torch.float32)
    delta = torch.zeros(2, 3, 2)
    with pytest.raises(InputError, match=r"start is 5, but there are 5 positions"):
        propagate(delta, dt, A, 5, 5)
    with pytest.raises(InputError, match=r"stop is 1, but a change at 2"):
        propagate(delta, dt, A, 2, 1)
    with pytest.raises(InputError, match=r"start is \[0, 7\], but there are 5 positions"):
        propagate(delta, dt, A, torch.tensor([0, 7]), 4)
    with pytest.raises(InputError, match=r"start is \(3,\), but the shape must be one of \[\(2,\)"):
        propagate(delta, dt, A, torch.tensor([0, 1, 2]), 4)
