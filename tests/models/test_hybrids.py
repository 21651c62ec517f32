"""Options of hybrids beyond those of `helpers.HF`, and hybrids from a folder."""

import pytest
import torch
from tests.models.helpers import TOKENS, adapter, relative
from tests.reference import tiny_models as tiny
from tests.reference.hooked_sites import site_values

import homolog

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
SAVED = {
    "falcon_mamba": tiny.tiny_falcon_mamba,
    "bamba": tiny.tiny_bamba,
    "falcon_h1": lambda: tiny.tiny_falcon_h1(ssm_multipliers=[0.5, 1.5, 0.8, 1.2, 0.9]),
    "granitemoehybrid": tiny.tiny_granite_hybrid,
    "jamba": tiny.tiny_jamba,
    "nemotron_h": tiny.tiny_nemotron_h,
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
