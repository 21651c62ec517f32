"""The gated delta rule: its protocol against its own runs."""

import pytest
import torch
from tests.models.helpers import adapter, relative, tiny

from homolog.models import Add, Replace, Zero
from homolog.models.mixers.base import at_positions
from homolog.models.mixers.delta_rule import DeltaRule

pytestmark = pytest.mark.usefixtures("one_thread")

AT_ONE = ["qwen3_next", "kimi_linear"]  # the delta rule in block 1
TOKENS = torch.randint(3, 97, (3, 9), generator=torch.Generator().manual_seed(0))
EXACT = 1e-10


@pytest.fixture(scope="module", params=AT_ONE)
def model(request):
    return tiny(request.param, torch.float64)


@pytest.fixture(scope="module")
def mixer(model):
    return model.mixer("y.1")


@pytest.fixture(scope="module")
def run(model):
    return model.run(TOKENS, capture=[site for site in model.sites() if site.layer == 1])


@pytest.fixture(scope="module")
def context(model, run):
    return model.context(run["mixer_in.1"])


@pytest.fixture(scope="module")
def inputs(mixer, run, context):
    return mixer.enter(run["mixer_in.1"], context)


def padded(value, reach, t):
    """A site at the `reach` positions before t, zeros before the window's start."""
    before = torch.cat([torch.zeros_like(value[:, :1])] * reach + [value], 1)
    return before[:, t : t + reach]


def test_what_positions_enter_with_reproduces_the_pass(mixer, run, context, inputs):
    assert isinstance(mixer, DeltaRule) and tuple(inputs) == mixer.inputs
    captured = mixer.prepared({kind: run[f"{kind}.1"] for kind in mixer.inputs}, context)
    for kind, value in inputs.items():
        assert relative(value, captured[kind]) < EXACT, kind
    states = mixer.states(inputs, [0, 4, -1])
    assert relative(states, run["state.1"][:, [0, 4, -1]]) < EXACT
    assert relative(mixer.memory(inputs), run["state.1"][:, -1]) < EXACT
    for i, t in enumerate((0, 4, -1)):
        at = {kind: value[:, t] for kind, value in inputs.items()}
        y = mixer.read(states[:, i], at)
        assert relative(y, run["y.1"][:, t]) < EXACT
        assert relative(mixer.leave(at, y), run["mixer_out.1"][:, t]) < EXACT


def test_one_position_enters_as_in_the_window(mixer, run, context, inputs):
    h = run["mixer_in.1"]
    for t in range(h.shape[1]):
        streams = torch.stack([h[:, t], 2 * h[:, t], h[:, t]])  # of three senders
        entered = mixer.enter_at(streams, context, padded(inputs["conv_in"], mixer.reach, t))
        for kind, value in entered.items():
            assert relative(value[0], inputs[kind][:, t]) < EXACT, (kind, t)
            assert relative(value[2], inputs[kind][:, t]) < EXACT


def test_steps_repeated_equal_the_states(mixer, inputs):
    length = inputs["key"].shape[1]
    states = mixer.states(inputs, range(length))
    state = torch.zeros(2, *states[:, 0].shape, dtype=states.dtype)  # of two senders
    for t in range(length):
        state = mixer.step(state, {kind: value[:, t] for kind, value in inputs.items()})
        assert relative(state[1], states[:, t]) < EXACT


@pytest.mark.parametrize("positions", [(2, 0, 8), (8, 8, 8), (0, 0, 0)])
def test_a_position_rewritten_equals_a_run_in_which_it_is_replaced(
    model, mixer, run, inputs, positions
):
    positions, generator = torch.tensor(positions), torch.Generator().manual_seed(1)
    end = {kind: value[:, -1] for kind, value in inputs.items()}
    old = at_positions(inputs, positions)
    writing = [kind for kind in mixer.inputs if kind in ("key", "value", "beta", mixer.decay)]
    for kinds in (*([kind] for kind in writing), writing):
        noise = {k: torch.rand(old[k].shape, generator=generator).to(old[k]) for k in kinds}
        new = {k: torch.stack([old[k], old[k] * noise[k]]) for k in kinds}
        edits = [
            Replace(f"{k}.1", new[k][1].unsqueeze(1), positions=positions[:, None]) for k in kinds
        ]
        again = model.run(TOKENS, edits=edits, capture=["state.1@-1", "y.1@-1"])
        memory = mixer.rewritten(inputs, positions, new)
        assert relative(memory[0], run["state.1"][:, -1]) < EXACT
        assert relative(memory[1], again["state.1@-1"]) < EXACT, kinds
        assert relative(mixer.reread(inputs, positions, new, end)[1], again["y.1@-1"]) < EXACT


def test_a_change_is_carried_to_every_later_position(model, mixer, run, inputs):
    change = torch.randn(run["state.1"][:, 0].shape, dtype=torch.float64)
    start = torch.tensor([1, 3, 0])
    edit = Add("state.1", change.unsqueeze(1), positions=start[:, None])
    changed = model.run(TOKENS, edits=[edit], capture=["state.1"])["state.1"] - run["state.1"]
    for stop in (3, 5, 8):
        carried = mixer.carry(change.expand(2, *change.shape), inputs, start, stop)
        assert relative(carried[1], changed[:, stop]) < EXACT


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_states_are_the_last_ones_of_runs_on_prefixes(model, run, length):
    stream = run["resid_pre.1"][:, :length]  # the same bits: experts before it route in float32
    edits = [Replace("resid_pre.1", stream)]
    sites = ["state.1@-1", "write.1", "state.1"]
    prefix = model.run(TOKENS[:, :length], edits=edits, capture=sites)
    assert relative(prefix["state.1@-1"], run["state.1"][:, length - 1]) < EXACT
    assert relative(prefix["write.1"], run["write.1"][:, :length]) < EXACT
    assert relative(prefix["state.1"][:, 0], run["write.1"][:, 0]) < EXACT


def test_the_state_is_that_of_the_module(model):
    """By head the module's cache holds key channels times value channels."""
    narrow = adapter(model.hf.float())
    cache = narrow.hf(TOKENS, use_cache=True).past_key_values
    state = narrow.run(TOKENS, capture=["state.1@-1"])["state.1@-1"]
    theirs = cache.get_recurrent_state(1, state_idx=0)
    model.hf.double()
    heads = state.unflatten(1, (theirs.shape[1], -1)).transpose(-1, -2)
    assert relative(heads, theirs) < 1e-5


def test_decays_that_end_at_zero_leave_finite_values_and_gradients(model):
    """A position that forgets everything: states after it are the writes alone."""
    way = torch.zeros(model.d_model, dtype=torch.float64, requires_grad=True)
    rates = model.mixer("y.1").parts.A_log
    before = rates.clone()
    rates.fill_(12.0)
    run = model.run(TOKENS, edits=[Add("embed", way)], capture=["state.1", "write.1"])
    (gradient,) = torch.autograd.grad(run.logits.square().sum(), way)
    rates.copy_(before)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    assert relative(*(run[f"{kind}.1"][:, 1:].detach() for kind in ("state", "write"))) < EXACT
    zero = Zero(f"{model.mixer('y.1').decay}.1@4")
    forgot = model.run(TOKENS, edits=[zero], capture=["state.1@4", "write.1@4"])
    assert relative(forgot["state.1@4"], forgot["write.1@4"]) < EXACT
