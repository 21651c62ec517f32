"""Activations that are not finite end in an error that names model, site and token."""

import pytest
import torch
from tests.models.helpers import HF, ONE_EACH, TOKENS, adapter, tiny
from tests.models.test_any_decoder import adapted

from homolog.errors import InputError
from homolog.models import Transform
from homolog.models.any_decoder import AnyDecoder
from homolog.models.finite import all_finite

pytestmark = pytest.mark.usefixtures("one_thread")

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0], True),
        ([1.0, NAN], False),
        ([INF, 1.0], False),
        ([INF, -INF], False),
        ([3e38, 3e38], True),  # the sum overflows; each is finite
        ([-3e38, -3e38, NAN], False),
    ],
)
def test_all_finite(values, expected):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert all_finite(torch.tensor(values, dtype=dtype)) == expected
    assert all_finite(torch.tensor([6e4, 6e4], dtype=torch.float16))


def said(call) -> str:
    with pytest.raises(InputError) as error:
        call()
    return str(error.value)


def models(build):
    hf = build()
    return adapter(hf, "bad"), AnyDecoder("bad", hf)


@pytest.mark.parametrize("case", ONE_EACH)
def test_a_too_large_entry_of_the_unembedding(case):
    for model in models(HF[case]):
        with torch.no_grad():
            model.hf.get_output_embeddings().weight[7] = 3e38
        stream = model.run(TOKENS, capture=["resid.1"], stop_after="resid.1")["resid.1"]
        for call in (
            lambda m=model: m.run(TOKENS),
            lambda m=model, h=stream: m.continue_from(1, h),
        ):
            message = said(call)
            assert "model is 'bad'" in message and "the logits, at position 0" in message
            assert "of window 0, where that of token 7 is" in message
        token = int(TOKENS[0, 0])
        assert f"position 0 (token {token}) of window 0" in said(lambda m=model: m.run(TOKENS))


def test_the_first_site_of_the_pass_and_its_token_are_named():
    """One embedding is NaN: position 4 of window 2 is the first that has that token."""
    tokens = torch.arange(33).view(3, 11)
    for model in (tiny("llama"), AnyDecoder("bad", HF["llama"]())):
        with torch.no_grad():
            model.hf.get_input_embeddings().weight[26] = NAN
        message = said(lambda m=model: m.run(tokens))
        assert (
            f"model is {model.name!r}" in message
            and "embed, at position 4 (token 26) of window 2" in message
        )
        for stop in (None, "resid.1"):
            assert "embed, at position 4" in said(
                lambda m=model, s=stop: m.run(tokens, capture=["resid.1"], stop_after=s)
            )
        assert "position 4" in said(lambda m=model: m.residuals(tokens))
        assert "position 4" in said(lambda m=model: m.run(tokens, capture=["resid.0@-1"]))


@pytest.mark.parametrize(
    ("case", "part", "site"),
    [
        ("neox-parallel", "gpt_neox.layers.1.attention.dense.bias", "attn_out.1"),
        ("gpt2", "transformer.h.1.mlp.c_proj.bias", "mlp_out.1"),
        ("llama", "model.layers.1.mlp.gate_proj.weight", "mlp_hidden.1"),
        ("mamba", "backbone.layers.1.mixer.conv1d.bias", "conv_out.1"),
    ],
)
def test_inside_a_block_the_site_is_named_where_the_adapter_knows_it(case, part, site):
    model = tiny(case)
    with torch.no_grad():
        model.hf.get_parameter(part).fill_(INF)
    assert f"not: {site}, at position 0" in said(lambda: model.run(TOKENS))


def test_half_precision_that_is_too_narrow_says_so():
    model = tiny("neox-parallel", torch.float16)
    block = model.hf.gpt_neox.layers[1]
    with torch.no_grad():
        block.attention.dense.bias[0] = block.mlp.dense_4h_to_h.bias[0] = 6e4
    message = said(lambda: model.run(TOKENS))
    assert "resid.1, at position 0" in message and "Load it with dtype float32" in message


def test_what_an_edit_puts_there_is_the_callers():
    for model in (tiny("gpt2"), adapted("gpt2")):
        edit = Transform("resid.1", function=lambda h: h * NAN)
        assert model.run(TOKENS, edits=[edit]).logits.isnan().all()
        h = torch.zeros(1, 4, model.d_model)
        assert model.continue_from(0, h, [edit]).isnan().all()
        h[0, 2] = NAN
        assert "resid.0, at position 2 of window 0" in said(
            lambda m=model, h=h: m.continue_from(0, h)
        )
