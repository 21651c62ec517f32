"""RG-LRU: its states are those that the module keeps, and its decay can be edited."""

import pytest
import torch
from tests.models.helpers import TOKENS, relative, tiny

from homolog.models import Add, Replace, Zero

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_state_is_the_one_that_the_module_keeps():
    model = tiny("recurrent-gemma")
    states = model.run(TOKENS, capture=["state.0@-1", "state.1@-1"])
    model.hf(TOKENS, use_cache=True)
    for layer in (0, 1):
        kept = model.hf.model.layers[layer].temporal_block.rg_lru.recurrent_states
        assert relative(states[f"state.{layer}@-1"].squeeze(-1), kept) < 1e-5


def test_a_state_put_in_decays_and_gains_the_later_writes():
    model = tiny("recurrent-gemma", torch.float64)
    sites = ["state.1", "A_bar.1", "write.1", "y.1"]
    clean = model.run(TOKENS, capture=sites)
    value = torch.ones_like(clean["state.1"][:, 4])
    run = model.run(TOKENS, edits=[Replace("state.1@4", value)], capture=[*sites, "state.1@2"])
    torch.testing.assert_close(run["state.1"][:, :4], clean["state.1"][:, :4])
    for t in range(5, 11):
        value = clean["A_bar.1"][:, t] * value + clean["write.1"][:, t]
        torch.testing.assert_close(run["state.1"][:, t], value)
    torch.testing.assert_close(run["y.1"], run["state.1"].squeeze(-1))
    torch.testing.assert_close(run["state.1@2"], clean["state.1"][:, 2])
    delta = torch.ones_like(value)
    edits = [Add("write.1@4", delta)], [Add("state.1@4", delta)]
    write, state = (model.run(TOKENS, edits=edit).logits for edit in edits)
    assert relative(write, state) < 1e-12  # the state is linear in its writes


def test_without_decay_nothing_is_kept():
    model = tiny("recurrent-gemma", torch.float64)
    sites = ["state.1", "write.1"]
    run = model.run(TOKENS, edits=[Zero("A_bar.1", positions=(5,))], capture=sites)
    torch.testing.assert_close(run["state.1"][:, 5], run["write.1"][:, 5])


def test_the_first_write_of_a_window_is_not_scaled():
    model = tiny("recurrent-gemma", torch.float64)
    run = model.run(TOKENS, capture=["A_bar.0", "B_bar.0", "input_gate.0"])
    a, B_bar, i = run["A_bar.0"][..., 0], run["B_bar.0"][..., 0], run["input_gate.0"]
    torch.testing.assert_close(B_bar[:, 0], i[:, 0])
    torch.testing.assert_close(B_bar[:, 1:], ((1 - a**2).sqrt() * i)[:, 1:])
