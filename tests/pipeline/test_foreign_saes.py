"""A study in which one model brings its dictionaries, written by another library, and the other has
its own trained.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch

import homolog
from homolog import dictionaries
from homolog.dictionaries import (
    Place,
    ResidualArrays,
    TrainingConfig,
    load,
    parse_config,
    save,
    train,
)
from homolog.errors import InputError
from homolog.pipeline.brought import load_brought, mismatch, without_seed
from homolog.pipeline.models import models_of
from homolog.pipeline.recipes import parse_recipe
from homolog.pipeline.run_study import run_study
from homolog.progress import SilentProgress
from homolog.record.comparisons import planned
from homolog.record.run_folder import RunFolder
from homolog.record.sides import StudyModel

LAYERS, WIDTH = 4, 48


def values(saes: dict[str, str]) -> dict:
    """A small recipe; the first model with these keys."""
    return {
        "name": "brought",
        "models": [{"ref": "zoo:transformer-s0", **saes}, {"ref": "zoo:transformer-s1"}],
        "corpus": {
            "source": "zoo:demo",
            "context": 64,
            "train_tokens": 4096,
            "match_tokens": 4096,
            "neuron_tokens": 1024,
            "quality_tokens": 1024,
        },
        "sae": {"d_sae": 32, "l1": 1.0, "batch": 256},
        "controls": {"neurons": False, "current_token": False},
        "matching": {"resamples": 4, "null_exchanges": 1, "space_tokens": 0},
    }


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TopK dictionaries of transformer-s0 in the layouts of sparsify (seed 0) and
    dictionary_learning (seed 1).
    """
    folder, model = tmp_path_factory.mktemp("brought"), homolog.load("zoo:transformer-s0")
    ids = model.tokenizer(" ".join(["the old man and the sea"] * 200), return_tensors="pt")[
        "input_ids"
    ][:, :1024]
    sites = [f"resid.{layer}" for layer in range(LAYERS)]
    run = model.run(ids.reshape(-1, 64), capture=sites)
    residuals = torch.stack([run[site].flatten(0, 1) for site in sites])
    source = ResidualArrays(residuals, seed=0, name="text")
    config = parse_config({"kind": "topk", "d_sae": WIDTH, "k": 8})
    training = TrainingConfig(n_tokens=2048, batch=128, precision="float32")
    trained = train(
        source,
        config,
        training,
        model="owner/another-model",
        labels=("sae", "seed1"),
        on=Place(workers=1),
    )
    for layer in range(LAYERS):
        save(trained["sae"][layer], folder / "sparsify" / f"layers.{layer}", format="sparsify")
        save(trained["seed1"][layer], folder / "dl" / f"{layer}", format="dictionary_learning")
    return folder


def test_a_study_of_brought_and_trained_dictionaries(brought: Path, tmp_path: Path) -> None:
    saes = {"saes": f"{brought}/sparsify/layers.{{layer}}", "saes_seed": f"{brought}/dl/{{layer}}"}
    out = tmp_path / "run"
    page = run_study(parse_recipe(values(saes), "brought"), out, SilentProgress())
    run, table = (
        RunFolder(out),
        pl.read_parquet(out / "saes.parquet").sort("model", "label", "layer"),
    )
    own = table.filter(pl.col("model") == "transformer-s0")
    assert own["label"].to_list() == ["sae"] * LAYERS + ["seed1"] * LAYERS
    assert (
        set(own["kind"]) == {"topk"}
        and set(own["sparsity"]) == {8.0}
        and set(own["d_sae"]) == {WIDTH}
    )
    other = table.filter(pl.col("model") == "transformer-s1")
    assert (
        set(other["kind"]) == {"relu"}
        and set(other["sparsity"]) == {1.0}
        and set(other["d_sae"]) == {32}
    )
    assert (
        other["origin"].is_null().all() and other["tokens_trained"].to_list() == [4096] * 2 * LAYERS
    )
    assert (
        own["origin"][2] == f"{brought}/sparsify/layers.2"
        and own["explained_variance"].is_not_null().all()
    )
    saved = load(run.sae_folder("transformer-s0", 2))
    assert set(saved.metadata["origin"]["files"]) == {"cfg.json", "sae.safetensors"}
    assert (
        saved.metadata["origin"]["of"]["model"] == "owner/another-model"
        and saved.metadata["ref"] == "zoo:transformer-s0"
    )
    assert (out / "saes/transformer-s0@rotated/2/cfg.json").is_file()
    compared = set(
        pl.read_parquet(out / "matches.parquet")
        .select("comparison", "model", "best_model", "best_label")
        .iter_rows()
    )
    assert ("sae-seed", "transformer-s0", "transformer-s0", "seed1") in compared
    assert ("main", "transformer-s0", "transformer-s1", "sae") in compared
    warned = [
        w for w in json.loads((out / "run.json").read_text())["warnings"] if "another-model" in w
    ]
    assert len(warned) == 2 * LAYERS and "transformer-s0, layer 0: its file says" in warned[0]
    assert page.is_file() and not run.residuals_folder("transformer-s0").exists()


def test_without_a_second_seed_its_skyline_is_left_out() -> None:
    recipe = parse_recipe(values({"saes": "saes/{layer}"}), "brought")
    models = models_of(recipe)
    names = {(p.comparison.name, p.a.model.name, p.b.words) for p in planned(models)}
    assert ("sae-seed", "transformer-s1", "transformer-s1@seed1") in names
    assert ("main-seed", "transformer-s0", "transformer-s1@seed1") in names
    assert not any("transformer-s0@seed1" in partner for _, _, partner in names)
    assert models.compared[0].saes == (str(Path("saes/{layer}").absolute()),)
    (warning,) = without_seed(models.compared, recipe)
    assert warning.startswith("transformer-s0 brings no dictionaries of another seed (saes_seed)")
    both = parse_recipe(values({"saes": "saes/{layer}", "saes_seed": "hf:o/n/{layer}"}), "brought")
    compared = models_of(both).compared
    assert compared[0].labels == ("sae", "seed1") and not without_seed(compared, both)


def test_dictionaries_of_another_model_are_refused_before_any_work(
    brought: Path, tmp_path: Path
) -> None:
    def start(**saes: str) -> None:
        run_study(parse_recipe(values(saes), "brought"), tmp_path / "run", SilentProgress())

    with pytest.raises(
        InputError, match=r"models.saes is .*layers\.0'.*has 4 blocks.*Put \{layer\}"
    ):
        start(saes=f"{brought}/sparsify/layers.0")
    with pytest.raises(InputError, match=r"layers\.0.*there is no such folder"):
        start(saes=f"{tmp_path}/nowhere/layers.{{layer}}")
    shutil.copytree(brought / "dl", tmp_path / "shifted")
    shutil.copytree(brought / "dl" / "2", tmp_path / "shifted" / "1", dirs_exist_ok=True)
    with pytest.raises(InputError, match=r"place of .*shifted/1 is 'block 2'.*after block 1"):
        start(saes=f"{tmp_path}/shifted/{{layer}}")
    sae = load(brought / "dl" / "0")
    narrow = replace(sae, W_enc=sae.W_enc[:100], W_dec=sae.W_dec[:, :100], b_dec=sae.b_dec[:100])
    save(narrow, tmp_path / "narrow" / "0")
    with pytest.raises(
        InputError, match=r"d_model of .*narrow/0 is 100, but transformer-s0 has .* 128"
    ):
        start(saes=f"{tmp_path}/narrow/{{layer}}")
    save(replace(sae, metadata={"hook": "blocks.0.hook_mlp_out"}), tmp_path / "mlp" / "0")
    with pytest.raises(
        InputError, match=r"'blocks.0.hook_mlp_out', but it is to read the residual stream"
    ):
        start(saes=f"{tmp_path}/mlp/{{layer}}")
    assert not (tmp_path / "run").exists()


def test_who_made_a_dictionary_is_compared_by_name(brought: Path) -> None:
    subject = StudyModel("zoo:transformer-s0", "", saes=(f"{brought}/dl/{{layer}}",))
    sae = load_brought(subject, homolog.load("zoo:transformer-s0"), "sae", 1)
    words = "transformer-s0, layer 1: its file says that the dictionary is of owner/another-model"
    assert mismatch(subject, sae, "f") == words

    def said(**of: str) -> str | None:
        origin = {**sae.metadata["origin"], "of": of}
        return mismatch(subject, replace(sae, metadata={**sae.metadata, "origin": origin}), "f")

    assert said() is said(model="zoo/Transformer-S0") is said(model="owner--transformer-s0") is None
    assert said(ref="x/transformer-s0-hf", tokenizer="f") is None and "another tokenizer" in str(
        said(tokenizer="g")
    )
    assert dictionaries.load(f"{brought}/dl/1").metadata["model"] == "owner/another-model"
