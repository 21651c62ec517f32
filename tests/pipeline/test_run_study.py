"""The whole study on a small recipe: tables, report, continuation after a kill, damage, and what
users get wrong.
"""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.sparse
from tests.processes import started, wait_for
from typer.testing import CliRunner

import homolog
from homolog.analyses.material import Material
from homolog.cli import app
from homolog.features import load_features
from homolog.pipeline.models import models_of
from homolog.pipeline.recipes import load_recipe
from homolog.pipeline.run_study import finished_report, run_study
from homolog.pipeline.verdicts import controls_of
from homolog.progress import SilentProgress
from homolog.record.run_folder import RunFolder

RECIPE = """
name = "small"
[[models]]
ref = "zoo:transformer-s0"
untrained = "zoo:transformer-random"
other_seed = "zoo:transformer-s1"
layers = [1, 3]
[[models]]
ref = "zoo:mamba-s0"
untrained = "zoo:mamba-random"
other_seed = "zoo:mamba-s1"
layers = [2, 5]
[corpus]
source = "zoo:demo"
context = 64
train_tokens = 8192
match_tokens = 8192
neuron_tokens = 4096
quality_tokens = 1024
[sae]
d_sae = 64
l1 = 1.0
epochs = 2
batch = 512
seeds = [0, 1]
[matching]
resamples = 20
space_tokens = 2048
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def done(recipe, tmp_path_factory) -> Path:
    """A run by a relative path, as people give it."""
    folder = tmp_path_factory.mktemp("runs")
    with contextlib.chdir(folder):
        run_study(load_recipe(recipe), Path("whole"), SilentProgress())
    return folder / "whole"


def tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.parquet"))}


def test_every_row_of_the_controls_is_there_in_both_directions(done):
    study = homolog.Study.load(done)
    rows = set(
        study.summary.filter(pl.col("stratum") == "all")
        .select("comparison", "model", "best_model", "best_label")
        .iter_rows()
    )
    for comparison, model, partner in (
        ("main", "transformer-s0", "mamba-s0"),
        ("main", "mamba-s0", "transformer-s0"),
        ("main-seed", "transformer-s0", "mamba-s0@seed1"),
        ("main-seed", "mamba-s0", "transformer-s0@seed1"),
        ("random-model", "transformer-s0", "mamba-random"),
        ("random-model", "mamba-s0", "transformer-random"),
        ("rotated", "transformer-s0", "mamba-s0@rotated"),
        ("rotated", "mamba-s0", "transformer-s0@rotated"),
        ("tokens", "transformer-s0", "current-token"),
        ("tokens", "mamba-s0", "current-token"),
        ("sae-seed", "transformer-s0", "transformer-s0@seed1"),
        ("sae-seed", "mamba-s0", "mamba-s0@seed1"),
        ("model-seed", "transformer-s0", "transformer-s1"),
        ("model-seed", "mamba-s0", "mamba-s1"),
        ("neurons", "transformer-s0", "mamba-s0"),
        ("neurons-random", "transformer-s0", "mamba-random"),
        ("neurons-random", "mamba-s0", "transformer-random"),
    ):
        best_model, _, label = partner.partition("@")
        default = "neuron" if comparison.startswith("neurons") else "sae"
        assert (comparison, model, best_model, label or default) in rows
    main = study.matches.filter((pl.col("comparison") == "main") & (pl.col("model") == "mamba-s0"))
    assert len(main) == 2 * 64
    assert len(study.layers.filter(pl.col("comparison") == "main")) == 2 * 2 * 2
    assert len(study.saes) == (2 + 2) * 2 + (2 + 2) * 2


def joined(material: Material, model: str, label: str = "sae") -> scipy.sparse.csr_array:
    """The features of both layers side by side: feature 64 n + i is feature i of the nth one."""
    run = material.run
    folders = [run.feature_folder(model, layer, label) for layer in material.layers(model)]
    return scipy.sparse.hstack([load_features(folder).matrix for folder in folders], format="csr")


def test_the_same_features_brought_as_matrices_are_judged_alike(done, recipe):
    """`homolog.match` knows no models: the layers of each are one matrix, its controls others."""
    study, loaded = homolog.Study.load(done), load_recipe(recipe)
    names = ("transformer-s0", "mamba-s0")
    other = dict(zip(names, reversed(names), strict=True))
    material = Material(done.absolute(), loaded, models_of(loaded))
    text, controls = material.windows("match"), {}
    for baseline in controls_of(material, study.saes).baselines:
        for model, (stand_in, label) in (baseline.stand_ins or {}).items():
            of = model if baseline.stands_for == "best_model" else other[model]
            matrix = joined(material, stand_in, label)
            controls[f"{baseline.name} of {model}"] = homolog.StandIn(matrix, of)
    assert len(controls) >= 4
    matches = homolog.match(
        *(joined(material, name) for name in names),
        names=names,
        documents=text.token_document,
        tokens=text.tokens[text.mask],
        controls=controls,
        resamples=loaded.matching.resamples,
        null_exchanges=loaded.matching.null_exchanges,
        seed=loaded.run.seed,
    )
    expected = study.matches.filter(comparison="main")
    same = ["n_active", "r", "p", "q", "excess", "threshold", "null_r", "mutual", "rival_r"]
    same += ["token_r2", "homolog", "fails"]
    assert matches.table.select(same).equals(expected.select(same))
    nth = pl.col("best_layer").replace_strict({1: 0, 3: 1, 2: 0, 5: 1}, default=None)
    place = pl.when(pl.col("best_feature") >= 0).then(64 * nth + pl.col("best_feature"))
    whole = expected.select(place.fill_null(-1).alias("best_feature"))["best_feature"]
    assert matches.table["best_feature"].to_list() == whole.to_list()
    for name in ("control_r", "beyond", "beyond_se", "beyond_q", "bar"):
        np.testing.assert_allclose(matches.table[name], expected[name], rtol=1e-4, atol=1e-6)
    given = study.shared.filter("given")
    for row in given.iter_rows(named=True):
        share = matches.share[row["model"]]
        assert share == pytest.approx((row["share"], row["lo"], row["hi"]))


def test_matches_are_correlations_of_the_saved_features(done):
    run = RunFolder(done)
    row = homolog.Study.load(done).matches.filter(
        (pl.col("comparison") == "main") & pl.col("r").is_not_nan()
    )
    for m in row.sample(20, seed=0).iter_rows(named=True):
        a = (
            load_features(run.feature_folder(m["model"], m["layer"]))
            .matrix[:, [m["feature"]]]
            .toarray()[:, 0]
        )
        b = load_features(run.feature_folder(m["best_model"], m["best_layer"])).matrix
        b = b[:, [m["best_feature"]]].toarray()[:, 0]
        assert m["r"] == pytest.approx(
            np.corrcoef(a.astype(float), b.astype(float))[0, 1], abs=1e-6
        )


def test_what_is_complete_is_verified_and_not_done_again(done, recipe):
    assert RunFolder(done).verify() == []
    before = (done / "run.json").read_bytes()
    run_study(load_recipe(recipe), done, SilentProgress())
    assert (done / "report" / "index.html").is_file()
    stages = RunFolder(done).record["stages"]
    assert all(stage["status"] == "done" for stage in stages.values())
    assert json.loads(before)["stages"] == stages
    assert finished_report(load_recipe(recipe), done) == done / "report" / "index.html"


def test_a_second_start_says_the_same_and_loads_nothing(done, recipe, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(done, out)
    command = ["run", str(recipe), "--out", str(out), "--quiet"]
    first = subprocess.run([sys.executable, "-m", "homolog", *command], capture_output=True)
    assert first.returncode == 0 and f"Report: {out}".encode() in first.stdout
    watched = [sys.executable, "-X", "importtime", "-m", "homolog", *command]
    second = subprocess.run(watched, capture_output=True)
    assert second.returncode == 0 and second.stdout == first.stdout
    imported = {line.rpartition("|")[2].strip() for line in second.stderr.decode().splitlines()}
    assert "homolog.record.finished" in imported
    assert not imported & {"torch", "polars", "numba", "transformers", "altair"}
    other = subprocess.run(
        [sys.executable, "-m", "homolog", *command, "--seed", "7"], capture_output=True, text=True
    )
    assert other.returncode == 2 and "another recipe" in other.stderr


def test_a_killed_run_continues_to_the_same_tables(done, recipe, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "homolog", "run", str(recipe), "--out", str(out), "--quiet"]
    features = out / "features" / "transformer-s0"
    with started(command) as process:  # and killed at the end of the block
        wait_for(lambda: features.is_dir() or process.poll() is not None)
    finished = [
        name for name, stage in RunFolder(out).record["stages"].items() if stage["status"] == "done"
    ]
    assert "dictionaries transformer-s0" in finished and "report" not in finished
    run_study(load_recipe(recipe), out, SilentProgress())
    assert tables(out) == tables(done)


def test_a_damaged_table_is_rebuilt(done, recipe, tmp_path):
    out = tmp_path / "damaged"
    shutil.copytree(done, out)
    whole = tables(out)
    (out / "layers.parquet").write_bytes(b"not a table")
    assert any("layers.parquet: damaged" in problem for problem in RunFolder(out).verify())
    run_study(load_recipe(recipe), out, SilentProgress())
    assert tables(out) == whole and RunFolder(out).verify() == []


def test_a_damaged_record_does_not_end_the_run(recipe, tmp_path):
    (tmp_path / "run.json").write_text("not JSON")
    assert finished_report(load_recipe(recipe), tmp_path) is None
    assert finished_report(load_recipe(recipe), tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("zoo:mamba-s1", "zoo:mamba-s9", ["zoo:mamba-s9", "transformer-random"]),
        ("match_tokens = 8192", "match_tokens = 8000000", ["corpus", "windows of 64 tokens"]),
        ("zoo:demo", "/nowhere/text.jsonl", ["/nowhere/text.jsonl"]),
        ("zoo:transformer-s1", "zoo:transformer-s0", ["models", "a name of its own"]),
    ],
)
def test_unusable_input_is_named_and_leaves_nothing(recipe, tmp_path, old, new, words):
    path = tmp_path / "bad.toml"
    path.write_text(recipe.read_text().replace(old, new))
    found = CliRunner().invoke(app, ["run", str(path), "--out", str(tmp_path / "out"), "--quiet"])
    assert found.exit_code == 2
    assert all(word in found.stderr for word in words) and "Traceback" not in found.stderr
    assert not (tmp_path / "out").exists()
