"""What a run captures never changes what it computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.models.helpers import HF, TOKENS, TRANSFORMERS, relative, tiny
from tests.models.test_any_decoder import CASES as ANY
from tests.models.test_any_decoder import adapted

from homolog.models import Add, LanguageModel, Replace, Transform
from homolog.models.mixers.rotary import rotate

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = ("gemma2", "gemma3_text", "gpt_oss")  # soft caps, tables by block, sinks
CASES = [*HF, *FEW]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def require_equal_bits(model: LanguageModel) -> None:
    plain, window = model.run(TOKENS).logits, TOKENS.shape[1]
    assert plain is not None and plain.isfinite().all()
    everything = model.run(TOKENS, capture=model.sites())
    assert torch.equal(everything.logits, plain)
    inside = [site for site in model.sites() if site.layer in (None, 1)]
    for site in inside:
        for name in (str(site), f"{site}@{window - 2}"):
            run = model.run(TOKENS, capture=[name])
            assert torch.equal(run.logits, plain), name
            assert run[name].isfinite().all(), name
    run = model.run(TOKENS, capture=["resid.2"], stop_after="resid.2")
    assert torch.equal(run["resid.2"], everything["resid.2"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_same_bits_with_and_without_each_capture(case, dtype):
    require_equal_bits(tiny(case, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", list(ANY))
def test_logits_of_any_decoder_too(case, dtype):
    if case == "mixtral" and dtype == torch.float64:
        pytest.skip("torch has no grouped product of experts in float64")
    require_equal_bits(adapted(case, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_an_edit_that_puts_back_what_was_there_changes_rounding_alone(case, dtype):
    """Then the pass goes through the site: head by head, tap by tap, position by position."""
    model = tiny(case, dtype)
    read, bound = model.run(TOKENS, capture=model.sites()), 50 * torch.finfo(dtype).eps
    for site in (s for s in model.sites() if s.layer in (None, 1)):
        again = model.run(TOKENS, edits=[Replace(site, read[site])])
        assert again.logits.isfinite().all()
        assert relative(again.logits, read.logits) < bound, site


def large_scores(case: str, dtype: torch.dtype) -> Any:
    """A model with attention scores in block 0 beyond float16, of queries and keys within it."""
    model: Any = tiny(case)
    with torch.no_grad():
        for read in ("query", "key"):
            weight, _ = model.mixers(0)[0].parts.project.matrix(
                read
            )  # a view of what the module holds
            weight.mul_(400)
    model.hf.to(dtype)
    return model


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", ["neox-parallel", "gpt2", "llama"])
def test_scores_beyond_half_precision_make_a_pattern_all_the_same(case, dtype):
    model = large_scores(case, dtype)
    run = model.run(TOKENS, capture=["embed", "pattern.0", "query.0", "key.0"])
    assert torch.equal(run.logits, model.run(TOKENS).logits)
    q, k = (run[f"{part}.0"].double() for part in ("query", "key"))
    attention, rotary = model.mixers(0)[0], model.context(run["embed"])[None]
    rotary = rotary if attention.parts.rotary else None
    q, k = (rotate(x.to(dtype), rotary).double().transpose(1, 2) for x in (q, k))
    k = k.repeat_interleave(attention.n_heads // attention.n_kv_heads, dim=1)
    scores = q @ k.mT * attention.parts.scale
    assert scores.abs().max() > 65504
    future = torch.ones(11, 11, dtype=torch.bool).triu(1)
    expected = scores.masked_fill(future, -torch.inf).softmax(-1)
    # float32 scores of 1e5
    torch.testing.assert_close(run["pattern.0"].double(), expected, atol=0.03, rtol=0)
    torch.testing.assert_close(run["pattern.0"].sum(-1), torch.ones(3, attention.n_heads, 11))
    edited = model.run(TOKENS, edits=[Transform("pattern.0", function=lambda p: p)])
    assert edited.logits.isfinite().all()
    assert relative(edited.logits, run.logits) < 50 * torch.finfo(dtype).eps


def test_heads_beyond_half_precision_whose_sum_is_not():
    """Heads 0 and 1 write +80,000 and -80,000, whose sum is 0; float16 ends at 65,504."""
    model = tiny("gpt2", torch.float16)
    attn = model.hf.transformer.h[1].attn
    with torch.no_grad():
        attn.c_attn.weight[:, 64:].zero_()  # values are the biases, whatever is read
        attn.c_attn.bias[64:] = 1.0
        weight = attn.c_proj.weight.view(4, 8, 32)
        weight[:, :, 5] = 0
        weight[0, :, 5], weight[1, :, 5] = 10000.0, -10000.0
    run = model.run(TOKENS, capture=["head_out.1", "attn_out.1"])
    torch.testing.assert_close(
        run["head_out.1"][:, :, 0, 5], torch.full((3, 11), 80000.0), atol=0, rtol=1e-3
    )
    torch.testing.assert_close(
        run["attn_out.1"][:, :, 5], attn.c_proj.bias[5].expand(3, 11), atol=0.01, rtol=0
    )
    edited = model.run(
        TOKENS, capture=["attn_out.1"], edits=[Transform("head_out.1", function=lambda h: h)]
    )
    torch.testing.assert_close(edited["attn_out.1"], run["attn_out.1"], atol=0.05, rtol=0.01)


@pytest.mark.parametrize("case", TRANSFORMERS)
def test_a_gradient_flows_through_what_is_captured(case):
    """Where gradients flow, the pass goes through a captured site: they can be asked for there."""
    model = tiny(case)
    way = torch.zeros(model.d_model, requires_grad=True)
    sites = ["query_in.1", "pattern.1", "head_out.1"]
    run = model.run(TOKENS, capture=sites, edits=[Add("embed", way)])
    gradients = torch.autograd.grad(run.logits[:, -1, 3].sum(), [run[site] for site in sites])
    assert all(g.abs().max() > 0 for g in gradients)
    torch.testing.assert_close(run.logits, model.run(TOKENS).logits, atol=1e-4, rtol=1e-4)
