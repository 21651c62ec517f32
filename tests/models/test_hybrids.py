"""Options of hybrids beyond those of `helpers.HF`, and hybrids from a folder."""

import pytest
import torch
from tests.models import helpers
from tests.models.helpers import TOKENS, adapter, relative
from tests.reference import tiny_models as tiny
from tests.reference.hooked_sites import site_values
from tests.reference.plain_hybrids import plain_block

import homolog
from homolog.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {
    "granite-experts-rotary": lambda: tiny.tiny_granite_hybrid(
        num_local_experts=4, num_experts_per_tok=2, position_embedding_type="rope"
    ),
    "falcon_h1-norm-after-gate": lambda: tiny.tiny_falcon_h1(
        mamba_rms_norm=True,
        mamba_norm_before_gate=False,
        attention_bias=True,
        projectors_bias=True,
    ),
    "nemotron_h-latent-experts": lambda: tiny.tiny_nemotron_h(
        moe_latent_size=16, mlp_bias=True, use_bias=True
    ),
}
ZAMBAS = ("zamba2", "zamba2-apart")
SAVED = {
    "falcon_mamba": tiny.tiny_falcon_mamba,
    "bamba": tiny.tiny_bamba,
    "falcon_h1": lambda: tiny.tiny_falcon_h1(ssm_multipliers=[0.5, 1.5, 0.8, 1.2, 0.9]),
    "granitemoehybrid": tiny.tiny_granite_hybrid,
    "jamba": tiny.tiny_jamba,
    "nemotron_h": tiny.tiny_nemotron_h,
    "zamba2": tiny.tiny_zamba2,
}


@pytest.mark.parametrize("case", OPTIONS)
def test_every_site_equals_what_a_block_written_out_by_hand_has(case):
    model = adapter(OPTIONS[case](), case)
    expected, logits = site_values(model.hf, TOKENS)
    run = model.run(TOKENS, capture=model.sites())
    assert set(expected) == set(map(str, model.sites()))
    off = {name: relative(run[name], value) for name, value in expected.items()}
    assert max(off.values()) < 1e-5, max(off, key=lambda name: off[name])
    assert run.logits is not None
    assert relative(run.logits, logits) < 1e-5


@pytest.mark.parametrize("case", ZAMBAS)
def test_in_float64_every_site_of_zamba2_equals_a_block_written_out(case):
    model = helpers.tiny(case, torch.float64)
    run = model.run(TOKENS, capture=model.sites())
    for layer, block in enumerate(model.blocks()):
        values = {}

        def remember(kind, value, values=values):
            values[kind] = value
            return value

        plain_block(model.hf, block, run[f"resid_pre.{layer}"], remember, run["embed"])
        assert set(values) == set(model.layer_kinds(layer))
        for kind, value in values.items():
            assert relative(run[f"{kind}.{layer}"], value) < 1e-10, (layer, kind)


@pytest.mark.parametrize("case", ZAMBAS)
def test_a_pass_of_zamba2_goes_on_from_the_stream_and_the_embeddings(case):
    model = helpers.tiny(case)
    run = model.run(TOKENS, capture=["embed", "resid.0", "resid.2"])
    assert run.logits is not None
    for layer, embedded in ((-1, None), (0, run["embed"]), (2, None)):
        h = run["embed" if layer == -1 else f"resid.{layer}"]
        assert torch.equal(model.continue_from(layer, h, embedded=embedded), run.logits)
    with pytest.raises(InputError, match=r"layer is 0.*reads more than the stream"):
        model.continue_from(0, run["resid.0"])
    model.bos = 5  # read before every window, and of its embedding too
    begun = model.run(TOKENS, capture=["embed", "resid.0"])
    logits = model.continue_from(0, begun["resid.0"], embedded=begun["embed"])
    assert relative(logits, begun.logits) < 1e-6


@pytest.mark.parametrize("case", SAVED)
def test_a_saved_hybrid_loads_and_computes_the_same(case, tmp_path):
    hf = SAVED[case]()
    hf.save_pretrained(tmp_path)
    with torch.no_grad():
        logits = hf(TOKENS, use_cache=False).logits
    model = homolog.load(tmp_path)
    assert model.architecture == case
    ours = model.run(TOKENS).logits
    assert ours is not None
    assert relative(ours, logits) < 1e-5
    half = homolog.load(tmp_path, dtype=torch.bfloat16).run(TOKENS).logits
    assert half is not None
    with torch.no_grad():
        rounded = hf.to(torch.bfloat16)(TOKENS, use_cache=False).logits.float()
    # what bfloat16 costs the module itself; experts may be chosen otherwise
    assert (half - logits).norm() < 1.5 * (rounded - logits).norm()
