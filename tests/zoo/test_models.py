"""The models that ship do what their cards say: they load anywhere, predict alike, and copy."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import homolog
from homolog.zoo import catalog
from homolog.zoo_training.evaluate import held_out_loss, held_out_stream, induction

TRAINED = [name for name in catalog.names() if catalog.entry(name).trained]


@pytest.fixture(scope="module")
def stream():
    tokenizer = AutoTokenizer.from_pretrained(catalog.TOKENIZER)
    return held_out_stream(tokenizer)


@pytest.fixture(scope="module")
def models():
    return {name: homolog.load(f"zoo:{name}") for name in TRAINED}


def test_the_zoo_is_small():
    assert sum(f.stat().st_size for f in catalog.FOLDER.rglob("*") if f.is_file()) < 48 * 2**20


def test_plain_hugging_face_loads_every_model_and_agrees(models, stream):
    tokens = torch.from_numpy(stream[: 4 * 128].reshape(4, 128))
    for name, model in models.items():
        plain = AutoModelForCausalLM.from_pretrained(
            catalog.entry(name).folder, dtype=torch.float32
        )
        assert 1e6 <= sum(p.numel() for p in plain.parameters()) <= 4e6
        with torch.no_grad():
            torch.testing.assert_close(
                model.run(tokens).logits, plain(tokens).logits, atol=2e-4, rtol=1e-4
            )


def test_stored_weights_are_16_bit_and_finite(models):
    for name, model in models.items():
        config = json.loads((catalog.entry(name).folder / "config.json").read_text())
        assert config["dtype"] == "float16"
        assert all(torch.isfinite(p).all() for p in model.hf.parameters())


def test_architectures_are_as_in_the_paper(models):
    for seed in ("s0", "s1"):
        transformer, mamba = models[f"transformer-{seed}"], models[f"mamba-{seed}"]
        assert (transformer.architecture, mamba.architecture) == ("gpt_neox", "mamba")
        assert mamba.n_layers == 2 * transformer.n_layers and mamba.d_model == transformer.d_model
        first, second = models[f"{transformer.name[4:-1]}0"], models[f"{transformer.name[4:-1]}1"]
        assert not torch.equal(first.embedding().weight, second.embedding().weight)


def test_held_out_loss_is_what_the_card_says_and_alike(models, stream):
    losses = {name: held_out_loss(model, stream) for name, model in models.items()}
    stated = {
        name: json.loads((catalog.entry(name).folder / "scores.json").read_text())["held_out_loss"]
        for name in models
    }
    for name, loss in losses.items():
        assert loss == pytest.approx(stated[name], abs=0.002)
        assert f"{stated[name]:.3f}" in (catalog.entry(name).folder / "README.md").read_text()
    for seed in ("s0", "s1"):
        assert abs(stated[f"transformer-{seed}"] - stated[f"mamba-{seed}"]) <= 0.15


def test_every_model_does_induction(models, stream):
    for name, model in models.items():
        for score in induction(model, stream, n_segments=64):
            assert score["gain"] >= 3, (name, score)


def test_untrained_twins_do_not(stream):
    for name in ("transformer-random", "mamba-random"):
        model = homolog.load(f"zoo:{name}")
        assert all(abs(score["gain"]) < 0.3 for score in induction(model, stream, n_segments=32))
