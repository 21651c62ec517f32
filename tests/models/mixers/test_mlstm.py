"""mLSTM: states without the exponent that the module keeps apart, and what it divides by."""

import pytest
import torch
from tests.models.helpers import TOKENS, adapter, relative, tiny
from tests.models.test_adapters import hooked
from tests.reference.tiny_models import tiny_xlstm

from homolog.models import Replace, Zero

pytestmark = pytest.mark.usefixtures("one_thread")


def kept_by(mixer, run):
    """What the module keeps of the last position: (batch, head, d_v + 1, d_k) and the exponent."""
    shown = ("query", "key", "value", "write_scale", "decay")
    q, k, v, scale, decay = (run[f"{kind}.{mixer.layer}"].transpose(1, 2) for kind in shown)
    gates = {"igate": scale.log(), "fgate": decay.logit()}
    _, (c, n, m) = mixer.module.mlstm_backend(query=q, key=k, value=v, **gates)
    return torch.cat([c.mT, n.unsqueeze(2)], 2), m


def test_the_state_is_the_one_that_the_module_keeps():
    model = tiny("xlstm")
    for mixer in model.mixers():
        run = model.run(TOKENS, capture=[f"{kind}.{mixer.layer}" for kind in mixer.sites])
        kept, exponent = kept_by(mixer, run)
        state = run[f"state.{mixer.layer}"][:, -1].unflatten(1, (mixer.heads, -1))
        assert relative(state, kept * exponent.exp()[..., None]) < 1e-5


def test_chunks_of_the_module_give_the_same():
    model = adapter(tiny_xlstm(chunk_size=8))
    expected, logits = hooked(model, TOKENS)
    for ours, theirs in zip(model.residuals(TOKENS), expected, strict=True):
        assert relative(ours, theirs) < 1e-5
    assert relative(model.run(TOKENS).logits, logits) < 1e-5


def test_the_divisor_is_the_normaliser_but_at_least_one():
    """Both occur in the tiny model, so that its other tests reach both."""
    model = tiny("xlstm", torch.float64)
    run = model.run(TOKENS, capture=["state.1", "query.1", "y.1"])
    rows = run["state.1"].unflatten(2, (4, 17))
    read = (rows * run["query.1"].unsqueeze(3)).sum(-1) / 4**0.5
    divisor = read[..., -1:].abs()
    assert 0.1 < (divisor > 1).double().mean() < 0.9
    torch.testing.assert_close(run["y.1"], (read[..., :-1] / divisor.clamp(min=1)).flatten(2))


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_any_decay_can_be_put_in(value):
    model = tiny("xlstm", torch.float64)
    sites = ["state.1", "write.1"]
    clean = model.run(TOKENS, capture=sites)
    edit = Replace("decay.1", torch.tensor(value).double(), positions=(5,))
    run = model.run(TOKENS, edits=[edit], capture=sites)
    expected = value * clean["state.1"][:, 4] + clean["write.1"][:, 5]
    torch.testing.assert_close(run["state.1"][:, 5], expected)
    torch.testing.assert_close(run["state.1"][:, :5], clean["state.1"][:, :5])


def test_a_head_without_a_write_keeps_what_it_had():
    model = tiny("xlstm", torch.float64)
    edit = Zero("write_scale.1", positions=(5,), heads=(2,))
    run = model.run(TOKENS, edits=[edit], capture=["state.1", "decay.1"])
    before, after = (run["state.1"][:, t].unflatten(1, (4, 17))[:, 2] for t in (4, 5))
    torch.testing.assert_close(after, run["decay.1"][:, 5, 2, None, None] * before)
