"""What a user is told about a site or an edit that cannot be."""

import pytest
import torch
from tests.models.helpers import TOKENS, tiny

from homolog.errors import InputError
from homolog.models import Add, Edit, Mean, Replace, Resample, Site, Transform, Zero

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = [
    ("z.99", ["z.99", "z.0 to z.2", "The nearest is 'z.2'"]),
    ("z.99@-1", ["The nearest is 'z.2@-1'"]),
    ("patern.1", ["patern.1", "Did you mean 'pattern.1'"]),
    ("PATTERN.1", ["Did you mean 'pattern.1'"]),
    ("embed.0", ["Did you mean 'embed'"]),
    ("resid", ["Did you mean 'resid.LAYER'"]),
    ("z.1.2.3", ["KIND.LAYER.HEAD"]),
    ("z.1.9", ["head is 9", "z.1 has 4 heads", "0 to 3"]),
    ("z.1.9@0", ["head is 9", "4 heads"]),
    ("pattern.1.4@2", ["head is 4", "4 heads"]),
    ("resid.1@400", ["position is 400", "resid.1@400 has 11 positions", "-11 to 10"]),
    ("z.1.0@-12", ["position is -12", "11 positions"]),
    ("resid.1.0", ["resid.1.0", "resid has no heads", "batch, position, d_model", "Name resid.1."]),
    ("state.1", ["state.1", "has no such site", "query_in"]),
]


@pytest.fixture(scope="module")
def model():
    return tiny("neox-sequential")


@pytest.fixture(scope="module")
def mamba():
    return tiny("mamba")


def told(call):
    with pytest.raises(InputError) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize(("name", "words"), NAMES)
def test_a_site_that_is_not_there_names_the_nearest(model, name, words):
    for call in (
        lambda: model.run(TOKENS, capture=[name]),
        lambda: model.run(TOKENS, edits=[Zero(name)]),
    ):
        message = told(call)
        for word in words:
            assert word in message


def test_a_head_of_a_site_without_heads_is_refused_however_it_is_named():
    assert "resid has no heads" in told(lambda: Site("resid", 1, head=0))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Replace("resid.1", torch.zeros(7)), ["(7,)", "(3, 11, 32)"]),
        (Add("resid.1", torch.zeros(3, 10, 32)), ["(3, 10, 32)", "(3, 11, 32)"]),
        (Add("z.1.2@-1", torch.zeros(4, 8)), ["(4, 8)", "z.1.2@-1 takes the shape (3, 8)"]),
        (
            Replace("z.1", torch.zeros(3, 2, 5, 8), positions=(1, 2), heads=(0, 3)),
            ["(3, 2, 5, 8)", "(3, 2, 2, 8)"],
        ),
        (Transform("mlp_out.0", function=lambda v: v[..., :5]), ["(3, 11, 5)", "(3, 11, 32)"]),
        (Zero("resid.1", heads=(0,)), ["heads", "no head axis", "batch, position, d_model"]),
        (Zero("resid.1", state_dims=(0,)), ["state_dims", "no d_state axis"]),
        (Zero("z.1", taps=(0,)), ["taps", "no tap axis"]),
        (Zero("resid.1", positions=(3, 11)), ["positions is 11", "11 positions", "-11 to 10"]),
        (
            Zero("resid.1", positions=torch.tensor([0, 1])),
            ["(2, 1)", "3 prompts", "one row of positions a prompt"],
        ),
        (Zero("z.1", heads=(4,)), ["heads is 4", "z.1 has 4 heads"]),
        (Zero("resid.1", channels=(32,)), ["channels is 32", "32 channels"]),
        (Replace("resid.1"), ["value", "Replace needs a tensor"]),
        (Add("resid.1"), ["value", "Add needs a tensor"]),
        (Resample("resid.1"), ["source", "Resample needs a run"]),
        (Transform("resid.1"), ["function"]),
    ],
)
def test_an_edit_that_does_not_fit_says_why(model, edit, words):
    message = told(lambda: model.run(TOKENS, edits=[edit]))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Replace("state.1@2", torch.zeros(3, 80, 4)), ["(3, 80, 4)", "(3, 80, 5)"]),
        (
            Replace("state.1", torch.zeros(3, 2, 80, 5), positions=(1, 2, 5)),
            ["(3, 2, 80, 5)", "(3, 3, 80, 5)"],
        ),
        (Zero("state.1", state_dims=(5,)), ["state_dims is 5", "5 state_dims"]),
        (Zero("B.1", channels=(0,)), ["channels", "state_dims"]),
        (Zero("state.1@11"), ["position is 11", "11 positions"]),
        (Zero("conv_taps.1", taps=(4,)), ["taps is 4", "4 taps"]),
        (Mean("state.1", positions=torch.tensor([1, 2, 3])), ["[1, 2, 3]", "source=run"]),
        (Zero("z.1"), ["z.1", "has no such site", "conv_in"]),
    ],
)
def test_an_edit_of_the_recurrence_that_does_not_fit_says_why(mamba, edit, words):
    message = told(lambda: mamba.run(TOKENS, edits=[edit]))
    for word in words:
        assert word in message


def test_a_source_that_has_not_captured_the_site_says_what_it_has(model):
    source = model.run(TOKENS, capture=["resid.0"])
    message = told(lambda: model.run(TOKENS, edits=[Resample("resid.1", source=source)]))
    assert "resid.1" in message and "captured resid.0" in message


def test_a_window_longer_than_the_learned_positions_is_refused():
    message = told(lambda: tiny("gpt2").run(torch.zeros(1, 65, dtype=torch.int64)))
    assert "tokens is 65" in message and "64 positions" in message


def test_the_base_class_is_no_edit(model):
    with pytest.raises(TypeError, match="use Replace, Add, Zero"):
        model.run(TOKENS, edits=[Edit("resid.1")])
