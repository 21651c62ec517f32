"""The scan against visible arithmetic, the per-position loop and autograd."""

import math

import pytest
import torch

from homolog.models.scan import selective_scan


def inputs(batch, length, d_inner, d_state, dtype, seed=0):
    g = torch.Generator().manual_seed(seed)
    u, B, C = (torch.randn(batch, length, n, dtype=dtype, generator=g) for n in (d_inner, d_state, d_state))
    dt = torch.nn.functional.softplus(torch.randn(batch, length, d_inner, dtype=dtype, generator=g) - 1)
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
    assert result.states is not None and result.states.flatten().tolist() == pytest.approx([4.0, 6.0, 7.0])
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
        torch.autograd.grad(ours.y, leaves, weights), torch.autograd.grad(loop.y, leaves, weights), strict=True
    ):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_gradients_pass_gradcheck():
    leaves = [t.requires_grad_() for t in inputs(2, 5, 3, 2, torch.float64)]
    assert torch.autograd.gradcheck(lambda *a: selective_scan(*a).y, leaves)


def test_states_equal_prefix_runs_and_continue():
    u, dt, A, B, C = inputs(2, 20, 70, 4, torch.float32)
    whole = selective_scan(u, dt, A, B, C, return_states=True)
    for t in (1, 7, 20):
        prefix = selective_scan(u[:, :t], dt[:, :t], A, B[:, :t], C[:, :t])
        torch.testing.assert_close(whole.states[:, t - 1], prefix.last_state)
    rest = selective_scan(u[:, 7:], dt[:, 7:], A, B[:, 7:], C[:, 7:], initial_state=whole.states[:, 6])
    torch.testing.assert_close(rest.y, whole.y[:, 7:])


def test_exp_is_accurate_over_its_range():
    x = torch.linspace(-86, 0, 20001)[None, :, None]  # one position each: h = exp(dt * A) * 1
    start = torch.ones(1, 20001, 1)
    found = selective_scan(
        torch.zeros(1, 1, 20001),
        -x.transpose(1, 2),
        -torch.ones(20001, 1),
        torch.ones(1, 1, 1),
        torch.ones(1, 1, 1),
        start,
    )
    exact = torch.exp(x.double()).flatten()
    error = ((found.y.flatten().double() - exact) / exact).abs()
    assert (error <= 5e-7 + 8e-8 * x.flatten().abs()).all()  # the second part: x in float32 times log2(e)


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
