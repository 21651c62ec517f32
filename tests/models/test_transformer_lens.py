"""Every site that TransformerLens also has, against TransformerLens on the same weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.helpers import FULL_ROTARY, TOKENS, adapter, relative
from tests.reference.tiny_family import tiny_family
from tests.reference.tiny_models import tiny_gpt2, tiny_gpt_neox, tiny_llama, tiny_mamba

MODELS = {
    "neox-parallel": tiny_gpt_neox,
    "neox-sequential": lambda: tiny_gpt_neox(
        use_parallel_residual=False, rope_parameters=FULL_ROTARY
    ),
    "gpt2": tiny_gpt2,
    "llama": tiny_llama,
    "mistral": lambda: tiny_family("mistral"),
    "qwen2": lambda: tiny_family("qwen2"),
    "qwen3": lambda: tiny_family("qwen3", attention_bias=False),
    "gemma2": lambda: tiny_family("gemma2"),
    "phi3": lambda: tiny_family("phi3", rope_parameters=FULL_ROTARY),
    "mamba": tiny_mamba,
}
ORACLE = Path(__file__).parents[1] / "reference" / "transformer_lens_oracle.py"
TRANSFORMER_HOOKS = {
    "resid_pre": "hook_resid_pre",
    "query_in": "hook_q_input",
    "key_in": "hook_k_input",
    "value_in": "hook_v_input",
    "query": "attn.hook_q",
    "key": "attn.hook_k",
    "value": "attn.hook_v",
    "pattern": "attn.hook_pattern",
    "z": "attn.hook_z",
    "head_out": "attn.hook_result",
    "attn_out": "hook_attn_out",
    "resid_mid": "hook_resid_mid",
    "mlp_in": "hook_mlp_in",
    "mlp_hidden": "mlp.hook_post",
    "mlp_out": "hook_mlp_out",
    "resid": "hook_resid_post",
}


@pytest.fixture(scope="module")
def lens(tmp_path_factory):
    """Our adapters, and what TransformerLens caches of the same weights: {case: {hook: value}}."""
    folder = tmp_path_factory.mktemp("lens")
    models = {case: adapter(build()) for case, build in MODELS.items()}
    for case, model in models.items():
        model.hf.save_pretrained(folder / case)
    save_file({"tokens": TOKENS}, folder / "in.safetensors")
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(ORACLE),
        str(folder / "in.safetensors"),
        str(folder / "out.safetensors"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, *(str(folder / case) for case in MODELS)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    cache: dict[str, dict[str, torch.Tensor]] = {case: {} for case in MODELS}
    for name, value in load_file(folder / "out.safetensors").items():
        number, hook = name.split(".", 1)
        cache[list(MODELS)[int(number)]][hook] = value
    return models, cache


@pytest.mark.parametrize("case", [case for case in MODELS if case != "mamba"])
def test_transformer_sites(lens, case):
    model, theirs = lens[0][case], lens[1][case]
    run = model.run(TOKENS, capture=model.sites())
    embedded = (
        theirs["hook_embed"] + theirs["hook_pos_embed"] if case == "gpt2" else theirs["hook_embed"]
    )
    assert relative(run["embed"], embedded) < 1e-5
    assert relative(run.logits, theirs["logits"]) < 1e-5
    compared = set()
    for site in model.sites()[1:]:
        if case == "qwen3" and site.kind in ("query", "key"):  # theirs are before the norm
            compared.add(site.kind)
            continue
        value = theirs[f"blocks.{site.layer}.{TRANSFORMER_HOOKS[site.kind]}"]
        assert relative(run[site], value) < 1e-5, site
        compared.add(site.kind)
    assert compared == set(model.layer_kinds(0))


def test_mamba_sites(lens):
    model, theirs = lens[0]["mamba"], lens[1]["mamba"]
    run = model.run(TOKENS, capture=model.sites())
    assert relative(run.logits, theirs["logits"]) < 1e-5
    assert relative(run["embed"], theirs["hook_embed"]) < 1e-5
    length, d_state = TOKENS.shape[1], model.hf.config.state_size
    for layer in range(model.n_layers):
        hook = {name.removeprefix(f"blocks.{layer}."): value for name, value in theirs.items()}
        halves, selected = hook["mixer.hook_in_proj"].chunk(2, dim=-1), hook["mixer.hook_x_proj"]
        shared = {
            "resid_pre": hook["hook_resid_pre"],
            "mixer_in": hook["norm.hook_in"],
            "conv_in": halves[0],
            "gate_in": halves[1],
            "conv_out": hook["mixer.hook_conv"][..., :length].transpose(1, 2),
            "ssm_input": hook["mixer.x_proj.hook_in"],
            "dt": torch.nn.functional.softplus(hook["mixer.hook_ssm_dt"]),
            "B": selected[..., -2 * d_state : -d_state],
            "C": selected[..., -d_state:],
            "write": hook["mixer.hook_ssm_write"].transpose(1, 2),
            "state": hook["mixer.hook_ssm_state"].transpose(1, 2),
            "mixer_out": hook["hook_mixer_out"],
            "resid": hook["hook_resid_post"],
        }
        for kind, value in shared.items():
            assert relative(run[f"{kind}.{layer}"], value) < 1e-5, (kind, layer)
        gated = (run[f"y.{layer}"] + run[f"skip.{layer}"]) * run[f"gate.{layer}"]
        assert relative(gated, hook["mixer.out_proj.hook_in"]) < 1e-5
