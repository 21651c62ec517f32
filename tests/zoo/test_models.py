"""The models that ship do what their cards say: they load anywhere, predict alike, and copy."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import homolog
from homolog.zoo import catalog
from homolog.zoo_training.evaluate import examined, held_out_loss, held_out_stream, induction

TRAINED = [name for name in catalog.names() if catalog.entry(name).trained]


HARDLY_COPY = {"rwkv-4-s0"}
"""What they remember is one average for each channel (docs/zoo.md)."""
FAMILIES = [name for name in TRAINED if catalog.entry(name).text == "zoo:domains"]


@pytest.fixture(scope="module")
def models():
    return {name: homolog.load(f"zoo:{name}") for name in TRAINED}


@pytest.fixture(scope="module")
def streams(models):
    """What each model has not seen, as its token ids."""
    return {
        name: held_out_stream(model.require_tokenizer(), catalog.entry(name).text)
        for name, model in models.items()
    }


def stated(name):
    return json.loads((catalog.entry(name).folder / "scores.json").read_text())


def test_the_zoo_is_small():
    for name in TRAINED:
        assert sum(f.stat().st_size for f in catalog.entry(name).folder.iterdir()) < 10 * 2**20
    models = sum(f.stat().st_size for f in catalog.MODELS.rglob("*") if f.is_file())
    everything = sum(f.stat().st_size for f in catalog.FOLDER.rglob("*") if f.is_file())
    assert models < 80 * 2**20 and everything < 96 * 2**20  # a wheel has to stay under 100 MB


def test_plain_hugging_face_loads_every_model_and_agrees(models, streams):
    for name, model in models.items():
        tokens = torch.from_numpy(streams[name][: 4 * 128].reshape(4, 128))
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


def test_held_out_loss_is_what_the_card_says_and_alike(models, streams):
    losses = {name: stated(name)["held_out_loss"] for name in models}
    for name, model in models.items():
        assert held_out_loss(model, streams[name]) == pytest.approx(losses[name], abs=0.002)
        assert f"{losses[name]:.3f}" in (catalog.entry(name).folder / "README.md").read_text()
    for seed in ("s0", "s1"):
        assert abs(losses[f"transformer-{seed}"] - losses[f"mamba-{seed}"]) <= 0.15


def test_every_model_but_one_does_induction_as_its_card_says(models, streams):
    for name, model in models.items():
        again = induction(model, streams[name], n_segments=64)
        for score, said in zip(again, stated(name)["induction"], strict=True):
            assert score["gain"] == pytest.approx(said["gain"], abs=0.5), (name, score)
            least = 3 if score["length"] == 16 else 2
            assert score["gain"] >= least or name in HARDLY_COPY, (name, score)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_do_the_tasks_that_their_cards_say(models, name):
    again = {row["task"]: row for row in examined(models[name], catalog.entry(name).text)}
    for row in stated(name)["tasks"]:
        assert again[row["task"]]["solved"] == pytest.approx(row["solved"], abs=0.02), row


def test_untrained_twins_do_not(streams):
    stream = streams["transformer-s0"]
    for name in ("transformer-random", "mamba-random"):
        model = homolog.load(f"zoo:{name}")
        assert all(abs(score["gain"]) < 0.3 for score in induction(model, stream, n_segments=32))
