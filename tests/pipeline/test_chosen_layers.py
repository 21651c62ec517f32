"""A study of some blocks has the numbers that the study of all blocks has of these."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from tests.pipeline.outcome import WHOLE, told

from homolog.analyses.material import Material
from homolog.errors import InputError
from homolog.features import load_features
from homolog.pipeline.models import models_of
from homolog.pipeline.recipes import parse_recipe
from homolog.pipeline.run_study import run_study
from homolog.progress import SilentProgress
from homolog.record.recipe import Recipe
from homolog.record.run_folder import RunFolder

MODELS = [
    {
        "ref": "zoo:transformer-s0",
        "untrained": "zoo:transformer-random",
        "other_seed": "zoo:transformer-s1",
        "layers": "every 2",
    },
    {"ref": "zoo:mamba-s0", "layers": [2, 6, 7]},
]
LAYERS = {
    "transformer-s0": (1, 3),
    "transformer-s1": (1, 3),
    "transformer-random": (1, 3),
    "mamba-s0": (2, 6, 7),
    "current-token": (0,),
}


def recipe_of(**changes: Any) -> Recipe:
    values = tomllib.loads(WHOLE.replace("causal_pairs = 4", "causal_pairs = 2"))
    del values["circuits"]
    if changes.get("layers") == "all":
        del values["interpretation"]
    models = [model | changes for model in MODELS]
    values["corpus"]["match_tokens"] = 8192
    values |= {"models": models, "sae": values["sae"] | {"seeds": [0, 1]}}
    values["controls"] = {"stability": False}
    return parse_recipe(values, "test")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, RunFolder]:
    """The same study of some blocks and of all."""
    folder = tmp_path_factory.mktemp("layers")
    for name, recipe in (("some", recipe_of()), ("all", recipe_of(layers="all"))):
        run_study(recipe, folder / name, SilentProgress())
    return {name: RunFolder(folder / name) for name in ("some", "all")}


def chosen(table: pl.DataFrame) -> pl.DataFrame:
    """The rows about the chosen blocks, on both sides where there are two."""
    for model, layer in (("model", "layer"), ("best_model", "best_layer")):
        if layer in table.columns:
            among = [
                (pl.col(model) == name) & pl.col(layer).is_in(layers)
                for name, layers in LAYERS.items()
            ]
            table = table.filter(pl.any_horizontal(among))
    return table


def table(run: RunFolder, name: str) -> pl.DataFrame:
    return pl.read_parquet(run.table(name))


def test_the_run_says_which_blocks(runs):
    for name in ("transformer-s0", "mamba-s0"):
        about = next(m for m in runs["some"].record["models"] if m["name"] == name)
        assert about["layers"] == list(LAYERS[name])
        assert about["n_layers"] == {"transformer-s0": 4, "mamba-s0": 8}[name]
    material = Material(runs["some"].path, recipe_of(), models_of(recipe_of()))
    assert material.layers("transformer-random") == (1, 3)
    assert material.n_layers("transformer-random") == 4


@pytest.mark.parametrize("model", [name for name in LAYERS if name != "current-token"])
def test_dictionaries_and_features_are_those_of_the_whole_study(runs, model: str):
    folders = {name: sorted((run.path / "saes" / model).iterdir()) for name, run in runs.items()}
    assert [int(folder.name) for folder in folders["some"]] == list(LAYERS[model])
    for layer in LAYERS[model]:
        for label in ("sae", "rotated") if model == "mamba-s0" else ("sae",):
            weights = [
                (run.sae_folder(model, layer, label) / "sae_weights.safetensors").read_bytes()
                for run in runs.values()
            ]
            assert weights[0] == weights[1]
            some, every = (
                load_features(run.feature_folder(model, layer, label)) for run in runs.values()
            )
            assert some.layer == every.layer == layer
            for part in ("indptr", "indices", "data"):
                assert np.array_equal(getattr(some.matrix, part), getattr(every.matrix, part))


def test_quality_is_that_of_the_whole_study(runs):
    some, every = (table(run, "saes") for run in runs.values())
    assert_frame_equal(some, chosen(every))
    assert some.filter(label="sae").height == 3 + 2 * 3


def test_pairs_of_blocks_are_those_of_the_whole_study(runs):
    some, every = (table(run, "layers") for run in runs.values())
    assert_frame_equal(some, chosen(every), rel_tol=1e-6)
    cka = some.filter(comparison="main", model="mamba-s0")["cka"]
    assert len(cka) == 3 * 2 and cka.is_not_null().all()
    decoders = some.filter(comparison="main")["decoder_rsa"]
    assert decoders.is_not_null().any()


def test_best_partners_are_the_best_among_the_chosen_blocks(runs):
    """r of each feature: the highest over pairs of blocks, where the other study's is the same."""
    keys = ["comparison", "model", "label", "layer", "feature", "best_model", "best_label"]
    some, every = (table(run, "matches") for run in runs.values())
    joined = some.join(every, on=keys, how="inner", suffix="_every")
    assert joined.height == some.height
    same = joined.filter(
        pl.any_horizontal(
            (pl.col("best_model") == name) & pl.col("best_layer_every").is_in(layers)
            for name, layers in LAYERS.items()
        )
    )
    assert same.height > some.height / 4
    for column in ("r", "best_layer", "best_feature", "n_active"):
        assert same[column].equals(same[f"{column}_every"])
    fewer = joined.filter(pl.col("r").is_finite())
    assert (fewer["r"] <= fewer["r_every"]).all()


def test_analyses_report_and_explorer_are_there(runs):
    run = runs["some"]
    assert not run.record.get("failed")
    for name in ("features", "left_context", "lists", "causal", "transplant"):
        assert set(table(run, name).filter(model="mamba-s0")["layer"]) <= {2, 6, 7}
    assert set(table(run, "features").filter(model="mamba-s0")["layer"]) == {2, 6, 7}
    page = told(run.report_folder)
    assert "8, dictionaries at 2, 6, 7" in page
    manifest = (run.report_folder / "explorer" / "data" / "manifest.js").read_text("utf-8")
    known = json.loads(manifest[manifest.index("{") : manifest.rindex("}") + 1])
    sizes = {model["name"]: model["sizes"] for model in known["models"]}
    assert sizes == {"transformer-s0": [0, 32, 0, 32], "mamba-s0": [0, 0, 32, 0, 0, 0, 32, 32]}


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([1, 4], r"models.layers is 4, but transformer-s0 has layers 0 to 3"),
        ([1, 1], r"models.0.layers is \[1, 1\], but no block may be named twice"),
        ("every 5", "transformer-s0 has layers 0 to 3, fewer than 5"),
    ],
)
def test_unknown_blocks_are_named_before_anything_is_made(tmp_path: Path, layers: Any, words: str):
    with pytest.raises(InputError, match=words):
        run_study(recipe_of(layers=layers), tmp_path / "run", SilentProgress())
    assert not (tmp_path / "run").exists()


def test_a_control_of_two_models_has_the_same_blocks_for_both():
    recipe = recipe_of()
    twice = [{"ref": "zoo:transformer-s0", "untrained": "zoo:transformer-random", "layers": [1]}]
    twice.append(twice[0] | {"ref": "zoo:transformer-s1", "layers": [2]})
    with pytest.raises(InputError, match=r"models.layers is .*transformer-random"):
        models_of(recipe.changed(models=twice))
