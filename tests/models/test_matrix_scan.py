"""Linear attention and the delta rule against arithmetic, the loop, autograd and transformers."""

from __future__ import annotations

import math

import pytest
import torch
from tests.models.scan_kinds import KINDS, Kind, each_kind, state_of
from torch import Tensor

from homolog.errors import InputError
from homolog.models.scan import delta_scan, linear_scan

CHUNKED = 70  # positions: two chunks of the kernels and a part of a third


SHAPES = [
    (2, CHUNKED, 2, 4, 6, 40),
    (1, 1, 1, 1, 1, 1),
    (3, 2, 1, 3, 5, 4),
    (1, 3, 2, 2, 1, 150),
    (2, 4, 3, 3, 7, 2),
]


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) <= tolerance * float(b.abs().max())


def test_visible_arithmetic_of_linear_attention():
    def row(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).reshape(1, 3, 1, 1)

    half = -math.log(2.0)
    result = linear_scan(
        row(1, 1, 10), row(1, 1, 2), row(4, 4, 4), row(half, half, half)[..., None], None, True
    )
    # S: 0/2 + 4 = 4, 4/2 + 4 = 6, 6/2 + 2 x 4 = 11; y = q S
    assert result.states is not None
    assert result.states.flatten().tolist() == pytest.approx([4.0, 6.0, 11.0])
    assert result.y.flatten().tolist() == pytest.approx([4.0, 6.0, 110.0])
    assert result.last_state.item() == pytest.approx(11.0)


def test_visible_arithmetic_of_the_delta_rule():
    """A key written twice holds the second value, and a key orthogonal to it another."""
    e = torch.eye(2, dtype=torch.float64)
    k = torch.stack([e[0], e[1], e[0]])[None, :, None]
    v = torch.tensor([[3.0], [5.0], [7.0]], dtype=torch.float64)[None, :, None]
    beta = torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64)[None, :, None]
    log_decay = torch.tensor([0.0, 0.0, -math.log(3.0)], dtype=torch.float64)[None, :, None, None]
    states = delta_scan(k, k, v, beta, log_decay, return_states=True).states
    # S' = (3, 5) / 3 at the end; half of the way from 1 to 7 is 4
    assert states is not None
    for found, expected in zip(states[0, :, 0, :, 0], [(3, 0), (3, 5), (4, 5 / 3)], strict=True):
        assert found.tolist() == pytest.approx(expected)


@each_kind
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-6)])
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_the_loop(kind, shape, dtype, tolerance):
    args = kind.inputs(shape, dtype)
    for state in (None, state_of(args)):
        ours, loop = (
            kind.run(args, initial_state=state, return_states=True, backend=backend)
            for backend in (None, "torch")
        )
        assert close(ours.y, loop.y, tolerance)
        assert close(ours.last_state, loop.last_state, tolerance)
        assert close(ours.states, loop.states, tolerance)


def outputs_of(kind: Kind, leaves: list[Tensor], read: list[int], backend: str | None):
    *args, start = leaves
    result = kind.run(args, initial_state=start, return_states=read, backend=backend)
    return result.y, result.last_state, result.states


@each_kind
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_those_of_the_loop(kind, shape, dtype, tolerance):
    args = kind.inputs(shape, dtype)
    leaves = [t.requires_grad_() for t in (*args, state_of(args))]
    last = shape[1] - 1
    read = [last, 0, last // 2, min(last, 32), 0]
    both = [outputs_of(kind, leaves, read, backend) for backend in (None, "torch")]
    g = torch.Generator().manual_seed(2)
    weights = [torch.randn(o.shape, dtype=dtype, generator=g) for o in both[1]]
    # all outputs together, and each alone: a gradient that nobody asks for is None
    for chosen in (slice(None), slice(0, 1), slice(1, 2), slice(2, 3)):
        ours, loop = (
            torch.autograd.grad(
                outputs[chosen], leaves, weights[chosen], retain_graph=True, allow_unused=True
            )
            for outputs in both
        )
        for a, b in zip(ours, loop, strict=True):
            if b is None:  # q plays no part in states
                assert not a.any()
            else:
                assert float((a - b).abs().max()) <= tolerance * max(float(b.abs().max()), 1e-3)


@each_kind
def test_gradients_pass_gradcheck(kind):
    args = kind.inputs((2, 5, 1, 2, 3, 2))
    leaves = [t.requires_grad_() for t in (*args, state_of(args))]
    assert torch.autograd.gradcheck(lambda *a: outputs_of(kind, list(a), [3, 0], None), leaves)


@each_kind
def test_gradients_are_finite_where_all_is_forgotten(kind):
    args = kind.inputs((1, 6, 1, 2, 3, 2))
    args[-1][:, 3] = -math.inf
    leaves = [t.requires_grad_() for t in (*args, state_of(args))]
    ours, loop = (
        torch.autograd.grad(outputs_of(kind, leaves, [5], backend)[0].sum(), leaves)
        for backend in (None, "torch")
    )
    for a, b in zip(ours, loop, strict=True):
        assert bool(a.isfinite().all())
        torch.testing.assert_close(a, b)
    assert bool(ours[-1].any())  # y at the positions before depends on the initial state


@each_kind
def test_nothing_in_gives_nothing_out(kind):
    for batch, length in ((0, 5), (2, 0)):
        args = kind.inputs((batch, length, 1, 2, 3, 4))
        result = kind.run(args, return_states=True)
        assert result.y.shape == (batch, length, 2, 4)
        assert result.last_state.shape == (batch, 2, 3, 4) and not result.last_state.any()
        assert result.states.shape == (batch, length, 2, 3, 4)


@each_kind
@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_states_are_read_at_the_positions_asked_for_in_their_order(kind, backend):
    args = kind.inputs((2, 20, 1, 3, 4, 5))
    all_states = kind.run(args, return_states=True, backend=backend).states
    asked = kind.run(args, return_states=[7, -1, 0, 7], backend=backend).states
    assert torch.equal(asked, all_states[:, [7, 19, 0, 7]])
    assert kind.run(args, return_states=[], backend=backend).states.shape == (2, 0, 3, 4, 5)
    assert kind.run(args, backend=backend).states is None


@each_kind
def test_states_equal_prefix_runs_and_continue(kind):
    args = kind.inputs((2, 20, 1, 3, 4, 5))
    whole = kind.run(args, return_states=True)
    for t in (1, 7, 20):
        prefix = kind.run([x[:, :t] for x in args])
        torch.testing.assert_close(whole.states[:, t - 1], prefix.last_state)
    rest = kind.run([x[:, 7:] for x in args], initial_state=whole.states[:, 6])
    torch.testing.assert_close(rest.y, whole.y[:, 7:])


@each_kind
def test_heads_of_a_group_share_its_keys(kind):
    args = kind.inputs((2, 9, 2, 6, 4, 5))
    repeated = [x.repeat_interleave(3, 2) for x in args[:2]]
    torch.testing.assert_close(kind.run(args).y, kind.run([*repeated, *args[2:]]).y)


@each_kind
@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_decay_of_minus_infinity_forgets_all_that_was_before(kind, backend, dtype):
    args = kind.inputs((2, 40, 1, 3, 4, 5), dtype)
    for value in (-math.inf, -200.0):
        args[-1][:, 33] = value
        whole, after = (kind.run(a, backend=backend) for a in (args, [x[:, 33:] for x in args]))
        assert bool(whole.y.isfinite().all())
        torch.testing.assert_close(whole.y[:, 33:], after.y)
    # at every step: only the write of the position itself is left
    args[-1][:] = -200.0
    y = kind.run(args, backend=backend).y
    q, k, v = args[:3]
    written = v if kind.name == "linear" else args[3][..., None] * v
    torch.testing.assert_close(y, (q * k).sum(-1, keepdim=True) * written)


def test_a_growing_state_is_right():
    args = KINDS[0].inputs((1, 40, 1, 1, 2, 2))
    args[-1][:] = 0.5
    at_end = linear_scan(*args).last_state[0, 0]
    _, k, v, _ = args
    growth = torch.exp(0.5 * torch.arange(39, -1, -1, dtype=torch.float64))
    torch.testing.assert_close(at_end, torch.einsum("t,tk,tv->kv", growth, k[0, :, 0], v[0, :, 0]))


@each_kind
def test_threads_do_not_change_the_result(kind):
    args = kind.inputs((3, 40, 1, 2, 8, 150), torch.float32)
    before = torch.get_num_threads()
    leaves = [t.requires_grad_() for t in args]
    try:
        of_threads = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            y = kind.run(leaves).y
            of_threads.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*of_threads, strict=True))


@each_kind
def test_inputs_that_do_not_fit_are_named(kind):
    args = kind.inputs((2, 4, 2, 4, 3, 6))
    with pytest.raises(InputError, match=r"return_states is 4, but the scan has 4.*-4 to 3"):
        kind.run(args, return_states=[0, 4])
    with pytest.raises(InputError, match=r"initial_state.*\(2, 4, 6, 3\).*\(2, 4, 3, 6\)"):
        kind.run(args, initial_state=args[0].new_zeros(2, 4, 6, 3))
    with pytest.raises(InputError, match=r"dtype.*float32.*float64.*must share one"):
        kind.run([args[0].float(), *args[1:]])
    with pytest.raises(InputError, match=r"heads of k is 2, but it must divide the 3 heads of v"):
        kind.run([*args[:2], *(x[:, :, :3] for x in args[2:])])
    wrong = args[-1].new_zeros(2, 4, 4, *([2] * (args[-1].ndim - 3)))
    with pytest.raises(
        InputError, match=r"log_decay is \(2, 4, 4, 2.*needs the shape \(2, 4, 4, 1"
    ):
        kind.run([*args[:-1], wrong])


@pytest.mark.parametrize("length", [1, 3, 64, 100])
def test_the_delta_rule_equals_that_of_transformers(length):
    from transformers.models.qwen3_next import modeling_qwen3_next as theirs

    q, k, v, beta, log_decay = Kind("delta", "1").inputs((2, length, 2, 4, 8, 6), torch.float32)
    start = state_of([q, k, v])
    given = {"initial_state": start, "output_final_state": True, "use_qk_l2norm_in_kernel": True}
    # theirs normalise q and k, and divide q by sqrt(d_k)
    ours = delta_scan(
        theirs.l2norm(q) / math.sqrt(8), theirs.l2norm(k), v, beta, log_decay, initial_state=start
    )
    for function in (theirs.torch_chunk_gated_delta_rule, theirs.torch_recurrent_gated_delta_rule):
        repeated = (q.repeat_interleave(2, 2), k.repeat_interleave(2, 2))
        y, last = function(*repeated, v, log_decay[..., 0], beta, **given)
        torch.testing.assert_close(ours.y, y, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.last_state, last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_linear_attention_equals_the_scan_inside_mamba_2(groups):
    """The module's own output, from the states that its projections and convolution give."""
    from transformers.models.mamba2 import modeling_mamba2 as theirs

    torch.manual_seed(0)
    config = theirs.Mamba2Config(
        num_heads=4, head_dim=8, hidden_size=16, state_size=6, n_groups=groups, chunk_size=8
    )
    mixer = theirs.Mamba2Mixer(config, layer_idx=0).eval().requires_grad_(False)
    mixer.A_log.copy_(torch.randn(4))
    mixer.dt_bias.copy_(torch.randn(4))
    mixer.D.copy_(torch.randn(4))
    x = torch.randn(2, 21, 16)
    gate, conv, dt = mixer.in_proj(x).split([32, 32 + 12 * groups, 4], -1)
    conv = torch.nn.functional.silu(mixer.conv1d(conv.transpose(1, 2))[..., :21].transpose(1, 2))
    u, B, C = conv.split([32, 6 * groups, 6 * groups], -1)
    u, B, C = (t.reshape(2, 21, -1, n) for t, n in ((u, 8), (B, 6), (C, 6)))
    dt = torch.nn.functional.softplus(dt + mixer.dt_bias)
    log_decay = -dt * mixer.A_log.exp()
    y = linear_scan(C, B, u * dt[..., None], log_decay[..., None, None]).y
    y = (y + u * mixer.D[:, None]).flatten(2)
    ours = mixer.out_proj(mixer.norm(y, gate))
    torch.testing.assert_close(ours, mixer(x), rtol=1e-4, atol=1e-6)
