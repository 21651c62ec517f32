"""Saved dictionaries in our own layout: round trip and refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.dictionaries.conftest import random_dictionary
from tests.dictionaries.helpers import D_MODEL, D_SAE

from homolog.dictionaries import KINDS, Quality, load, save, saved_quality
from homolog.errors import InputError

NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, tmp_path: Path) -> None:
    sae = random_dictionary(kind)
    quality = Quality(100, 0.5, 3.0, 0.1, (0.0,) * 7)
    save(sae, tmp_path, quality)
    back = load(tmp_path)
    assert (back.kind, back.k) == (sae.kind, sae.k)
    assert all(torch.equal(getattr(back, name), getattr(sae, name)) for name in NAMES)
    assert (back.threshold is None) == (kind in ("relu", "topk"))
    assert back.threshold is None or torch.equal(back.threshold, sae.threshold)
    assert {name: back.metadata[name] for name in sae.metadata} == sae.metadata
    carried = saved_quality(back)
    assert carried is not None and carried.l0 == 3.0 and math.isnan(carried.loss_clean)
    assert saved_quality(sae) is None


def test_the_model_is_named_for_those_who_read_the_file(tmp_path: Path) -> None:
    facts = {"ref": "EleutherAI/pythia-160m", "revision": "step1000", "tokenizer": "0f3a"}
    save(
        replace(
            random_dictionary("relu"),
            metadata={"model": "EleutherAI--pythia-160m", "layer": 2, **facts},
        ),
        tmp_path,
    )
    metadata = json.loads((tmp_path / "cfg.json").read_text())["metadata"]
    assert (
        metadata["model_name"] == facts["ref"]
        and metadata["hook_name"] == "blocks.2.hook_resid_post"
    )
    assert (metadata["revision"], metadata["tokenizer"]) == ("step1000", "0f3a")
    assert metadata["homolog"]["kind"] == "relu" and "kind" not in load(tmp_path).metadata


def test_foreign_input_convention_is_folded(tmp_path: Path) -> None:
    sae = random_dictionary("relu")
    save(sae, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    config["apply_b_dec_to_input"] = False
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    x = torch.randn(50, D_MODEL, generator=torch.Generator().manual_seed(0))
    expected = torch.relu(x @ sae.W_enc + sae.b_enc)
    torch.testing.assert_close(load(tmp_path).encode(x), expected, atol=1e-4, rtol=1e-4)


def _edit(folder: Path, **changes: object) -> None:
    path = folder / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _reshape(folder: Path) -> None:
    tensors = load_file(folder / "sae_weights.safetensors")
    save_file(
        {**tensors, "W_dec": tensors["W_dec"][:-1].contiguous()}, folder / "sae_weights.safetensors"
    )
    _edit(folder, metadata={})


def _drop_bias(folder: Path) -> None:
    tensors = load_file(folder / "sae_weights.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if k != "b_enc"}, folder / "sae_weights.safetensors"
    )
    _edit(folder, metadata={})


def _flip_byte(folder: Path) -> None:
    data = bytearray((folder / "sae_weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "sae_weights.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "cfg.json").unlink(), "none of cfg.json, "),
        (lambda f: (f / "sae_weights.safetensors").unlink(), "sae_weights.safetensors is missing"),
        (lambda f: (f / "cfg.json").write_text("{"), "readable JSON"),
        (lambda f: _edit(f, architecture="gated"), "the kind under metadata.homolog, 'relu'"),
        (lambda f: _edit(f, architecture="transcoder"), "one of standard, topk"),
        (lambda f: _edit(f, normalize_activations="layer_norm"), "normalize_activations"),
        (lambda f: _edit(f, d_sae="many"), "positive integer"),
        (_flip_byte, "SHA-256"),
        (_drop_bias, rf"b_enc in .*sae_weights.safetensors is 'missing'.*\({D_SAE},\)"),
        (_reshape, rf"W_dec in .*shape \({D_SAE - 1}, {D_MODEL}\).*shape \({D_SAE}, {D_MODEL}\)"),
    ],
)
def test_damage_is_named(damage, message: str, tmp_path: Path) -> None:
    save(random_dictionary("relu"), tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        load(tmp_path)
