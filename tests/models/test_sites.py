"""Reading: every site of every architecture against hooks on the Hugging Face modules."""

import pytest
import torch
from tests.models.helpers import (
    FAMILY,
    HF,
    MAMBAS,
    RECURRENCES,
    TOKENS,
    TRANSFORMERS,
    relative,
    tiny,
)
from tests.reference.hooked_sites import site_values
from transformers.pytorch_utils import Conv1D

from homolog.models import Mean, Resample, Site, Zero
from homolog.models.mamba import Mamba
from homolog.models.mixers.attention import Attention
from homolog.models.sites import KINDS

pytestmark = pytest.mark.usefixtures("one_thread")


MLP_OUT = {
    "gpt_neox": "gpt_neox.layers.0.mlp.dense_4h_to_h",
    "gpt2": "transformer.h.0.mlp.c_proj",
    "llama": "model.layers.0.mlp.down_proj",
    "recurrent_gemma": "model.layers.0.mlp_block.down_proj",
    "lfm2": "model.layers.0.feed_forward.w2",
    "rwkv": "rwkv.blocks.0.feed_forward.value",
    "xlstm": "backbone.blocks.0.ffn.proj_down",
    **{case: "model.layers.0.mlp.down_proj" for case in FAMILY if case != "gpt_oss"},
}


def inner_sizes(config):
    """Sizes inside the mixers, as the configuration has them."""
    if config.model_type == "mamba":
        inner, state = config.expand * config.hidden_size, config.state_size
        return {"d_inner": inner, "d_state": state, "tap": config.conv_kernel}
    if config.model_type == "recurrent_gemma":
        return {"d_inner": config.lru_width, "d_state": 1, "tap": config.conv1d_width}
    if config.model_type == "lfm2":
        return {"d_inner": config.hidden_size, "d_state": config.conv_L_cache}
    if config.model_type == "xlstm":
        return {"d_inner": 4 * 16, "d_state": 4, "head": 4}
    return {"d_inner": config.hidden_size, "d_state": 2, "tap": 2}


@pytest.fixture(params=list(HF))
def model(request):
    return tiny(request.param)


def test_every_site_equals_what_hooks_on_the_module_see(model):
    expected, logits = site_values(model.hf, TOKENS)
    run = model.run(TOKENS, capture=model.sites())
    assert set(expected) == set(map(str, model.sites()))
    off = {name: relative(run[name], value) for name, value in expected.items()}
    assert max(off.values()) < 1e-5, max(off, key=lambda name: off[name])
    assert relative(run.logits, logits) < 1e-5


def test_one_site_at_a_time_reads_the_same_and_changes_nothing(model):
    together, plain = model.run(TOKENS, capture=model.sites()), model.run(TOKENS)
    for site in (s for s in model.sites() if s.layer == 1):
        alone = model.run(TOKENS, capture=[site])
        assert relative(alone[site], together[site]) < 1e-5, site
        assert relative(alone.logits, plain.logits) < 1e-5, site


def test_axes_are_those_of_the_legend(model):
    run = model.run(TOKENS, capture=model.sites())
    config = model.hf.config
    if config.model_type not in {"mamba", *MLP_OUT}:
        return  # several widths of heads: tests/models/mixers/
    sizes = {"batch": 3, "position": 11, "key_position": 11, "d_model": config.hidden_size}
    mixers = model.mixers()
    if attention := next((m for m in mixers if isinstance(m, Attention)), None):
        sizes |= {"head": config.num_attention_heads, "d_head": attention.parts.d_head}
    if not isinstance(model, Mamba):
        neurons = model.hf.get_submodule(MLP_OUT[config.model_type])
        sizes["d_mlp"] = (
            neurons.weight if isinstance(neurons, Conv1D) else neurons.weight.T
        ).shape[0]
    sizes |= inner_sizes(config)
    for site, value in run.captured.items():
        expected = [sizes.get(axis) for axis in site.axes]
        mixer = next((m for m in model.mixers(site.layer) if site.kind in m.sites), None)
        if isinstance(mixer, Attention) and site.kind in ("key", "value", "key_in", "value_in"):
            expected[2] = mixer.n_kv_heads
        elif config.model_type == "xlstm" and site.kind in ("query", "key", "value"):
            expected[3] = 16 if site.kind == "value" else 4
        elif config.model_type == "xlstm" and site.kind in ("write", "state"):
            expected[2] = 4 * (16 + 1)  # a row for the normaliser of each head
        elif site.kind in ("key", "value"):  # of one head
            expected[2:] = [1, sizes["d_inner"]]
        assert value.shape == torch.Size(expected), site


def test_a_head_or_a_position_in_the_name_indexes_the_whole(model):
    whole, asked = model.run(TOKENS, capture=model.sites()), {}
    for site in model.sites():
        value = whole[site].movedim(site.axes.index("position"), 1)
        asked |= {f"{site}@{p}": value[:, p] for p in (0, 4, -1)}
        if "head" in site.axes:
            head = min(1, whole[site].shape[site.axes.index("head")] - 1)
            asked |= {
                f"{site}.{head}": whole[site].select(site.axes.index("head"), head),
                f"{site}.{head}@-3": value[:, -3, head],
            }
    some = model.run(TOKENS, capture=list(asked))
    for name, value in asked.items():
        assert torch.equal(some[name], value) or relative(some[name], value) < 1e-5, name


@pytest.mark.parametrize("case", TRANSFORMERS)
def test_the_pattern_sums_to_one_and_sees_no_future(case):
    model = tiny(case)
    pattern = model.run(TOKENS, capture=["pattern.1", "z.1", "value.1"])["pattern.1"]
    torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:-1]))
    assert pattern.triu(1).abs().max() == 0


@pytest.mark.parametrize("case", MAMBAS)
def test_the_state_at_a_position_is_the_last_one_of_a_run_on_the_prefix(case):
    model = tiny(case)
    read = model.run(TOKENS, capture=["state.1@3", "state.2", "state.1@0", "state.1@-1"])
    for layer, t, value in (
        (1, 3, read["state.1@3"]),
        (1, 10, read["state.1@-1"]),
        (2, 6, read["state.2"][:, 6]),
    ):
        cache = model.hf(TOKENS[:, : t + 1], use_cache=True).cache_params
        state = cache.get_recurrent_state(layer, state_idx=0)
        assert relative(value, state.flatten(1, -2)) < 1e-5
    first = model.run(TOKENS, capture=["write.1@0"])["write.1@0"]
    assert relative(read["state.1@0"], first) < 1e-6


def test_bfloat16_reads_every_site(model):
    exact, _ = site_values(model.hf, TOKENS)
    model.hf.to(torch.bfloat16)
    run = model.run(TOKENS, capture=model.sites())
    assert run.logits.dtype == torch.float32
    for name, value in exact.items():
        assert run[name].isfinite().all()
        assert (run[name].float() - value).norm() / value.norm() < 0.1, name


@pytest.mark.parametrize(
    "case",
    ["neox-sequential", "gpt2-scaled", "llama-bias", "mamba-bias", "mamba2", *RECURRENCES, *FAMILY],
)
def test_float64_runs_in_float64(case):
    """States, norms and softmax keep the precision: a float32 run differs by rounding alone."""
    wide, narrow = tiny(case, torch.float64), tiny(case)
    read, rough = wide.run(TOKENS, capture=wide.sites()), narrow.run(TOKENS, capture=narrow.sites())
    for site, value in read.captured.items():
        assert value.dtype == torch.float64
        assert relative(rough[site].double(), value) < 1e-5, site
    resid = read["resid.1"].clone()
    resid[0, -1, 0] += 1e-11
    moved = wide.continue_from(1, resid) - wide.continue_from(1, read["resid.1"])
    assert 0 < moved.abs().max() < 1e-8  # float32 anywhere in between would make it 0, or 1e-7


def test_logits_of_the_last_position_alone(model):
    assert (
        relative(model.run(TOKENS, last_only=True).logits, model.run(TOKENS).logits[:, -1:]) < 1e-5
    )


def test_later_blocks_continue_from_a_residual_stream(model):
    run = model.run(TOKENS, capture=["embed", "resid.0"])
    logits = model.continue_from(0, run["resid.0"], embedded=run["embed"])
    assert relative(logits, run.logits) < 1e-6


def test_names_are_read_and_written_alike():
    for name in ("embed", "embed@3", "z.5", "z.5.0", "state.17@12", "key.5.0@-1", "pattern.0.11"):
        assert str(Site.parse(name)) == name
    assert Site.parse("key.5.0@-1") == Site("key", 5, 0, -1)
    assert Site.parse("key.5.0@-1").base == Site("key", 5)
    assert set(KINDS["pattern"]) == {"batch", "head", "position", "key_position"}


def test_blocks_alone_give_what_they_give_in_a_pass(model):
    """From the stream before them, with what is read and edited in them."""
    inside = [Site(kind, 1) for kind in model.layer_kinds(1)]
    zero = Zero(Site("resid_pre", 1), positions=[0])
    for edits in ([], [zero]):
        run = model.run(TOKENS, capture=["embed", "resid.0", *inside], edits=edits)
        alone = model.run_blocks(1, 1, run["resid.0"], inside, edits, run["embed"])
        assert alone.logits is None
        for site in inside:
            assert relative(alone[site], run[site]) < 1e-6, site


def test_a_branch_whose_output_is_put_there_is_not_computed(monkeypatch):
    """Unless something else of it is read; the result is the same."""
    model = tiny("neox-sequential")
    mlp = model.layers[1][1][0]
    calls = []
    passed = type(mlp).__call__
    monkeypatch.setattr(
        type(mlp), "__call__", lambda self, *a: calls.append(self.layer) or passed(self, *a)
    )
    other = model.run(TOKENS.flip(0), capture=["mlp_out.1"])
    for edit in (Zero("mlp_out.1"), Resample("mlp_out.1", source=other)):
        calls.clear()
        skipped = model.run(TOKENS, edits=[edit]).logits
        assert 1 not in calls and 0 in calls
        read = model.run(TOKENS, capture=["mlp_hidden.1"], edits=[edit])
        assert 1 in calls and torch.equal(read.logits, skipped)
    for edit in (Zero("mlp_out.1", positions=[2]), Mean("mlp_out.1")):
        calls.clear()
        model.run(TOKENS, edits=[edit])
        assert 1 in calls
