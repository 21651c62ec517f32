"""Adapters against hooks on the unmodified Hugging Face modules."""

import pytest
import torch
from tests.models.helpers import HF, tiny
from tests.reference.hooked_sites import site_values
from tests.reference.plain_hybrids import first

from homolog.errors import InputError
from homolog.models import Add, Replace, Site, Transform, Zero

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = torch.randint(0, 97, (3, 21), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=list(HF))
def model(request):
    return tiny(request.param)


def hooked(model, tokens):
    """What each block of the Hugging Face module returns, and its logits."""
    seen: list[torch.Tensor] = []
    handles = [
        b.register_forward_hook(lambda _m, _a, out: seen.append(first(out))) for b in model.blocks()
    ]
    logits = model.hf(tokens).logits
    for handle in handles:
        handle.remove()
    return seen, logits


def test_residuals_and_logits_equal_hooks_on_the_module(model):
    expected, logits = hooked(model, TOKENS)
    for ours, theirs in zip(model.residuals(TOKENS), expected, strict=True):
        assert ours.shape == (3, 21, model.d_model)
        largest = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours, theirs, atol=1e-5 * largest, rtol=0)
    torch.testing.assert_close(model.run(TOKENS).logits, logits, atol=1e-5, rtol=1e-5)


def test_bfloat16_stays_close_to_the_module_in_bfloat16(model):
    expected, _ = hooked(model, TOKENS)
    model.hf.to(torch.bfloat16)
    theirs, _ = hooked(model, TOKENS)
    ours = model.residuals(TOKENS)
    for ours_l, theirs_l, exact in zip(ours, theirs, expected, strict=True):
        noise = (
            theirs_l.float() - exact
        ).norm() / exact.norm()  # what bfloat16 costs the module itself
        assert (ours_l.float() - exact).norm() / exact.norm() < 1.5 * noise + 1e-3


def test_a_run_stops_after_the_last_site_wanted(model):
    ran = set()  # blocks, each of which has a norm that runs first
    names = ("norm", "input_layernorm", "ln_1", "ln1", "temporal_pre_norm", "operator_norm")
    names += ("post_attention_layernorm", "norm_mlstm")
    blocks = [getattr(b, "mamba_decoder", b) for b in model.blocks()]  # Zamba2's norms lie deeper
    norms = [next(m for name, m in b.named_children() if name in names) for b in blocks]
    handles = [
        norm.register_forward_hook(lambda *_, layer=layer: ran.add(layer))
        for layer, norm in enumerate(norms)
    ]
    run = model.run(TOKENS, capture=["resid.1"], stop_after="resid.1")
    for handle in handles:
        handle.remove()
    assert ran == {0, 1} and run.logits is None
    assert list(run.captured) == [Site("resid", 1)]


def test_neurons_are_what_the_modules_compute(model):
    expected, _ = site_values(model.hf, TOKENS)
    scanned = ("ssm_input", "gate") if "ssm_input.1" in expected else ()  # of a selective scan
    kinds = [*scanned, *(["mlp_hidden"] if "mlp_hidden.1" in expected else [])]
    kinds.sort(key=model.layer_kinds(1).index)
    if not kinds:
        with pytest.raises(InputError, match="block 1 has no neurons: it is attention"):
            model.neuron_sites(1)
        return
    sites = model.neuron_sites(1)
    run = model.run(TOKENS, capture=sites, stop_after="resid.1")
    assert sites == [Site(kind, 1) for kind in kinds]
    for site in sites:
        torch.testing.assert_close(run[site], expected[str(site)], atol=1e-5, rtol=0)


def test_edits_reach_the_logits_and_leave_inputs_alone(model):
    site = Site("resid", 1)
    clean = model.run(TOKENS, capture=[site])
    before = clean[site].clone()
    value = torch.linspace(-1, 1, model.d_model)  # a constant would vanish in the layer norm
    same = model.run(TOKENS, edits=[Replace(site, value=clean[site])])
    torch.testing.assert_close(same.logits, clean.logits, atol=1e-5, rtol=1e-5)
    added = model.run(TOKENS, edits=[Add("resid.1", value, positions=(-1,))], capture=[site])
    torch.testing.assert_close(added[site][:, -1], before[:, -1] + value)
    torch.testing.assert_close(added[site][:, :-1], before[:, :-1])
    doubled = model.run(TOKENS, edits=[Transform(site, function=lambda h: 2 * h)], capture=[site])
    torch.testing.assert_close(doubled[site], 2 * before)
    zeroed = model.run(TOKENS, edits=[Zero(site, positions=(0, 3))], capture=[site])
    assert zeroed[site][:, [0, 3]].abs().max() == 0
    assert (added.logits[:, -1] - clean.logits[:, -1]).abs().max() > 1e-3
    torch.testing.assert_close(clean[site], before)


def test_an_edit_inside_a_block_acts(model):
    branch = model.branches(0)[-1]
    site = Site((branch.neurons or (branch.out,))[-1], 0)
    clean, cut = model.run(TOKENS), model.run(TOKENS, edits=[Zero(site)], capture=[site])
    assert cut[site].abs().max() == 0
    assert (cut.logits - clean.logits).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.run(TOKENS, capture=["resid.9"]), ["resid.9", "no such site", "resid."]),
        (lambda m: m.run(TOKENS, capture=["resd.0"]), ["resd.0", "Did you mean 'resid.0'"]),
        (lambda m: m.run(TOKENS + 90), ["tokens", "97 token ids"]),
        (lambda m: m.run(TOKENS, edits=[Zero("resid.0", positions=(21,))]), ["positions", "21"]),
        (
            lambda m: m.run(TOKENS, edits=[Replace("resid.0", value=torch.zeros(7))]),
            ["(7,)", f"(3, 21, {40}"[:8]],
        ),
        (
            lambda m: m.run(TOKENS, capture=["resid.2"], stop_after="resid.1"),
            ["resid.2", "stops after resid.1"],
        ),
        (lambda m: m.run(TOKENS)["resid.0"], ["resid.0", "captured nothing"]),
    ],
)
def test_errors_name_what_is_wrong(model, call, words):
    with pytest.raises(ValueError) as error:
        call(model)
    for word in words:
        assert word in str(error.value)
