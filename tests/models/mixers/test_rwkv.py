"""RWKV-4: a numerator and a denominator, linear in the writes, and the position before."""

import pytest
import torch
from tests.models.helpers import TOKENS, relative, tiny
from tests.reference.tiny_models import tiny_rwkv

from homolog.models import Add, Replace
from homolog.models.rwkv import RWKV

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_state_is_the_one_that_the_module_keeps():
    """It keeps an exponent apart, so that the largest key has the factor 1."""
    model = tiny("rwkv")
    read = model.run(TOKENS, capture=["state.0@-1", "state.2@-1"])
    _, _, numerator, denominator, exponent = model.hf(TOKENS, use_cache=True).state
    for layer in (0, 2):
        scale = exponent[:, :, layer].double().exp()
        for i, kept in enumerate((numerator, denominator)):
            assert relative(read[f"state.{layer}@-1"][..., i], kept[:, :, layer] * scale) < 1e-5


@pytest.mark.parametrize("shift", [-600.0, -100.0, 100.0, 600.0])
def test_keys_far_from_zero_change_nothing_but_the_scale(shift):
    """y is a quotient: keys that are all larger by the same give the same, also beyond float32."""
    model = tiny("rwkv")
    sites = ["key.1", "state.1@-1", "y.1"]
    clean = model.run(TOKENS, capture=sites)
    run = model.run(TOKENS, edits=[Add("key.1", torch.tensor(shift))], capture=sites)
    assert relative(run["y.1"], clean["y.1"]) < 1e-3  # of keys rounded beside the shift
    scale = torch.tensor(shift, dtype=torch.float64).exp()
    assert relative(run["state.1@-1"] / scale, clean["state.1@-1"]) < 1e-3


def test_a_position_reads_the_state_before_it_and_its_own_write_with_a_bonus():
    model = tiny("rwkv", torch.float64)
    run = model.run(TOKENS, capture=["state.1", "write.1", "y.1"])
    bonus = torch.exp(model.hf.rwkv.blocks[1].attention.time_first)[:, None]
    for t in (1, 10):
        top, bottom = (run["state.1"][:, t - 1] + bonus * run["write.1"][:, t]).unbind(-1)
        torch.testing.assert_close(run["y.1"][:, t], top / bottom)
    top, bottom = run["write.1"][:, 0].unbind(-1)
    torch.testing.assert_close(run["y.1"][:, 0], top / bottom)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_readouts_without_states_are_those_of_the_states(dtype):
    model = tiny("rwkv", dtype)
    with torch.no_grad():
        alone = model.run(TOKENS, capture=["y.1"])["y.1"]
        read = model.run(TOKENS, capture=["y.1", "state.1", "write.0"])["y.1"]
    with torch.enable_grad():
        model.hf.requires_grad_(True)
        learning = model.run(TOKENS, capture=["y.1"])["y.1"].detach()
    assert torch.equal(alone, read)
    assert relative(alone, learning) < (1e-6 if dtype == torch.float32 else 1e-14)


def test_an_edited_state_acts_on_later_positions_alone():
    model = tiny("rwkv", torch.float64)
    clean = model.run(TOKENS, capture=["state.1", "y.1"])
    other = 2 * clean["state.1"][:, 4] + 1
    run = model.run(TOKENS, edits=[Replace("state.1@4", other)], capture=["state.1", "y.1"])
    torch.testing.assert_close(run["y.1"][:, :5], clean["y.1"][:, :5])
    w = -torch.exp(model.hf.rwkv.blocks[1].attention.time_decay)
    change = (other - clean["state.1"][:, 4]) * torch.exp(3 * w)[:, None]
    torch.testing.assert_close(run["state.1"][:, 7] - clean["state.1"][:, 7], change)
    assert (run["y.1"][:, 5] - clean["y.1"][:, 5]).abs().max() > 1e-6


def test_the_position_before_is_zero_at_the_start_of_a_window():
    run = tiny("rwkv").run(TOKENS, capture=["mlp_normed.1", "mlp_shifted.1", "shift_taps.1"])
    shifted = run["mlp_shifted.1"]
    assert shifted[:, 0].abs().max() == 0 and run["shift_taps.1"][:, 0, 0].abs().max() == 0
    assert torch.equal(shifted[:, 1:], run["mlp_normed.1"][:, :-1])


def test_weights_are_never_divided():
    hf = tiny_rwkv().requires_grad_(False)  # left to itself, it divides after every block
    before = {name: p.clone() for name, p in hf.state_dict().items()}
    plain = hf.train()(TOKENS).logits
    hf.eval()(TOKENS)
    assert not all(torch.equal(p, before[name]) for name, p in hf.state_dict().items())
    assert relative(RWKV("tiny rwkv", hf).run(TOKENS).logits, plain) < 1e-5
    assert all(torch.equal(p, before[name]) for name, p in hf.state_dict().items())
