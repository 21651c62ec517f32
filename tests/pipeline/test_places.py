"""Dictionaries at other places of a block than the residual stream after it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tests.pipeline.outcome import WHOLE, told

from homolog import dictionaries
from homolog.analyses.causal.forward import final_stream, streams_of
from homolog.analyses.material import Material
from homolog.errors import InputError
from homolog.features import capture_residuals
from homolog.features.splicing import clean_loss, full_residuals, spliced_loss
from homolog.models import Add, Site, load
from homolog.pipeline.models import models_of
from homolog.pipeline.recipes import parse_recipe, parse_saes
from homolog.pipeline.run_study import run_study
from homolog.pipeline.sae import train_saes
from homolog.pipeline.sae_eval import evaluate_sae
from homolog.progress import SilentProgress
from homolog.record.recipe import EvaluationRecipe, Recipe
from homolog.record.run_folder import RunFolder


def recipe_of(**first: object) -> Recipe:
    values = tomllib.loads(WHOLE)
    del values["circuits"]
    values["corpus"]["match_tokens"] = 8192
    values["controls"] = dict.fromkeys(("stability", "sae_seed", "current_token", "neurons"), False)
    values["sae"]["seeds"] = [0]
    values["models"] = [
        {"ref": "zoo:transformer-s0", "layers": [1, 2], "site": "mlp_out"} | first,
        {"ref": "zoo:mamba-s0", "layers": [3, 7], "site": "mixer_out"},
    ]
    return parse_recipe(values, "test")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    folder = tmp_path_factory.mktemp("places") / "run"
    run_study(recipe_of(), folder, SilentProgress())
    return RunFolder(folder)


def test_features_are_those_of_the_place(run):
    """Encoded again from what the model's own pass has there."""
    recipe = recipe_of()
    material = Material(run.path, recipe, models_of(recipe))
    text = material.windows("match")
    for name, place in (("transformer-s0", "mlp_out.2"), ("mamba-s0", "mixer_out.3")):
        model, layer = load(f"zoo:{name}"), int(place[-1])
        value = model.run(torch.from_numpy(text.tokens[:8]).long(), capture=[place])[place]
        kept = value[torch.from_numpy(text.mask[:8])].float()
        expected = material.sae(name, layer).encode(kept).detach().numpy()
        features = material.features(name, layer).matrix[: len(kept)].toarray()
        assert (expected > 0).any() and np.allclose(features, expected, atol=1e-4)


def test_the_run_and_its_files_say_the_place(run):
    assert not run.record.get("failed")
    said = {model["name"]: model["site"] for model in run.record["models"]}
    assert said == {"transformer-s0": "mlp_out", "mamba-s0": "mixer_out"}
    of_row = pl.read_parquet(run.table("saes")).select("model", "site").unique().rows()
    assert set(of_row) >= set(said.items()) and {site for _, site in of_row} == set(said.values())
    for label in ("sae", "rotated"):
        of_mlp = dictionaries.load(run.sae_folder("transformer-s0", 1, label))
        assert of_mlp.metadata["hook"] == "blocks.1.hook_mlp_out"
        of_mixer = dictionaries.load(run.sae_folder("mamba-s0", 3, label))
        assert of_mixer.metadata["hook"] == "mixer_out.3"
    page = told(run.report_folder)
    assert "Dictionaries of" in page and "mixer_out" in page
    for table in ("causal", "transplant", "left_context"):
        rows = pl.read_parquet(run.table(table)).filter(model="mamba-s0")
        assert set(rows["layer"]) <= {3, 7}


def test_brought_ones_are_used_at_their_own_place_alone(run, tmp_path: Path):
    template = f"{run.path}/saes/transformer-s0/{{layer}}"
    for site, words in (
        ("resid", "it is to read the residual stream after block 1"),
        ("attn_out", "it is to read attn_out.1 of the model"),
    ):
        recipe = recipe_of(saes=template, site=site)
        with pytest.raises(InputError, match=words):
            run_study(recipe, tmp_path / "other", SilentProgress())
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ("mixer_out", "of the width of its stream .*transformer-s0 has resid_pre, attn_out"),
        ("mlp_hidden", "has resid_pre, attn_out"),
        ("embed", "has resid_pre, attn_out"),
    ],
)
def test_a_place_that_a_model_does_not_have(site: str, words: str, tmp_path: Path):
    with pytest.raises(InputError, match=words):
        run_study(recipe_of(site=site), tmp_path / "run", SilentProgress())
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=f"--site is '{site}'"):
        settings = parse_saes(model="zoo:transformer-s0", site=site)
        train_saes(settings, tmp_path / "run", SilentProgress())


PLACES = [
    ("zoo:transformer-s0", "attn_out"),
    ("zoo:transformer-s0", "mlp_out"),
    ("zoo:transformer-s0", "resid_pre"),
    ("zoo:mamba-s0", "mixer_out"),
    ("zoo:mamba-s0", "resid"),
]


@pytest.mark.parametrize(("ref", "place"), PLACES)
def test_splices_and_additions_are_edits_at_the_place(run, ref: str, place: str):
    recipe = recipe_of()
    windows = Material(run.path, recipe, models_of(recipe)).windows("quality")[:4]
    plain = load(ref)
    model, layer, tokens = plain.placed(place), 1, torch.from_numpy(windows.tokens).long()
    site = Site(place, layer)
    values = full_residuals(model, windows, [layer])[layer]
    assert torch.equal(values, plain.run(tokens, capture=[site])[site])
    flat = capture_residuals(model, windows, [layer])[layer]
    assert torch.equal(flat, values[torch.from_numpy(windows.mask)])
    same = spliced_loss(model, windows, values, layer, lambda x: x)
    assert same == pytest.approx(clean_loss(plain, windows), abs=1e-5)
    halved = spliced_loss(model, windows, values, layer, lambda x: x / 2)
    assert abs(halved - same) > 1e-4
    streams = streams_of(model, windows, np.arange(4), [layer])
    step = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    changed = final_stream(model, layer, streams.own[layer] + step, streams.before[layer])
    last = Site("resid", plain.n_layers - 1)
    edited = plain.run(tokens, capture=[last], edits=[Add(site, step)], stop_after=last)[last]
    assert torch.allclose(changed, edited, atol=1e-4)
    assert not torch.allclose(changed, streams.final, atol=1e-2)


def test_dictionaries_of_one_model_at_a_place_are_trained_and_measured_there(tmp_path: Path):
    values = {"tokens": 8192, "heldout": 8192, "context": 64, "d_sae": 32, "seeds": 1}
    settings = parse_saes(model="zoo:mamba-s0", layers="3", site="mixer_out", **values)
    (row,) = train_saes(settings, tmp_path / "run", SilentProgress())
    assert row["site"] == "mixer_out"
    folder = RunFolder(tmp_path / "run").sae_folder("mamba-s0", 3, "sae")
    measured = evaluate_sae(EvaluationRecipe.parse({"sae": str(folder)}), SilentProgress())
    assert measured.agrees
    assert measured.quality.loss_spliced == pytest.approx(row["loss_spliced"], abs=1e-4)
    with pytest.raises(InputError, match=r"it is measured at resid\.3"):
        evaluate_sae(
            EvaluationRecipe.parse({"sae": str(folder), "site": "resid"}), SilentProgress()
        )
