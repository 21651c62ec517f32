"""The gated short convolution: what it keeps, and for how long."""

import pytest
import torch
from tests.models.helpers import TOKENS, adapter, relative, returned_by, tiny
from tests.reference.plain_recurrences import sites_and_logits
from tests.reference.tiny_models import tiny_lfm2_moe
from transformers import DynamicCache

from homolog.models import Add, Replace

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_state_is_the_one_that_the_module_keeps():
    model = tiny("lfm2")
    state = model.run(TOKENS, capture=["state.1@-1"])["state.1@-1"]
    cache = DynamicCache(config=model.hf.config)
    model.hf(TOKENS, use_cache=True, past_key_values=cache)
    kept = cache.get_conv_state(1, state_idx=0)
    assert relative(state[..., -kept.shape[-1] :], kept) < 1e-5


def test_a_write_is_gone_after_as_many_positions_as_there_are_taps():
    model = tiny("lfm2", torch.float64)
    sites = ["state.1", "y.1", "conv_in.1"]
    clean = model.run(TOKENS, capture=sites)
    one = torch.ones_like(clean["conv_in.1"][:, 4])
    run = model.run(TOKENS, edits=[Add("conv_in.1@4", one)], capture=sites)
    change, weight = run["state.1"] - clean["state.1"], model.mixers(1)[0].convolution.weight[:, 0]
    for t, place in ((4, 2), (5, 1), (6, 0)):
        expected = torch.zeros_like(change[:, t])
        expected[..., place] = 1
        torch.testing.assert_close(change[:, t], expected)
        y = (run["y.1"] - clean["y.1"])[:, t]
        torch.testing.assert_close(y, weight[:, place].expand_as(y))
    assert change[:, 7:].abs().max() < 1e-12 and change[:, :4].abs().max() < 1e-12


def test_a_write_edited_in_the_newest_place_is_what_enters():
    model = tiny("lfm2-bias", torch.float64)
    clean = model.run(TOKENS, capture=["conv_in.1", "write.1"])
    assert torch.equal(clean["write.1"][..., -1], clean["conv_in.1"])
    assert clean["write.1"][..., :-1].abs().max() == 0
    value = torch.ones_like(clean["conv_in.1"][:, 3])
    edits = (
        [Replace("conv_in.1@3", value)],
        [Replace("write.1@3", value[..., None], state_dims=(3,))],
    )
    first, second = (model.run(TOKENS, edits=edit).logits for edit in edits)
    assert relative(first, second) < 1e-12


def test_blocks_with_experts_are_read_as_the_module_computes_them():
    hf = tiny_lfm2_moe()
    model = adapter(hf)
    expected, logits = sites_and_logits(hf, TOKENS)
    run = model.run(TOKENS, capture=model.sites())
    assert set(expected) == set(map(str, model.sites()))
    for name, value in expected.items():
        assert relative(run[name], value) < 1e-5, name
    assert relative(run.logits, logits) < 1e-5
    for ours, theirs in zip(
        model.residuals(TOKENS), returned_by(hf, "model.layers", TOKENS), strict=True
    ):
        assert relative(ours, theirs) < 1e-5
