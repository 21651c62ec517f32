"""Whole commands in half precision: they finish, and say what float32 says within the rounding of
the models.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tests.reference.tiny_models import save_readable, tiny_gpt2, tiny_llama
from typer.testing import CliRunner

from homolog.circuits.discovery import discover
from homolog.circuits.induction import Prompts, Unable, trace_induction
from homolog.circuits.off_by_one import off_by_one
from homolog.cli import app
from homolog.dictionaries import load as load_sae
from homolog.dictionaries.quality import RECHECK_TOKENS
from homolog.models import load
from homolog.pipeline import Study
from homolog.record.names import model_name
from homolog.zoo import catalog

HALF = ["bfloat16", "float16"]
RECIPE = """
name = "precisions"
[[models]]
ref = "zoo:transformer-s0"
untrained = "zoo:transformer-random"
layers = [1, 3]
[[models]]
ref = "zoo:mamba-s0"
untrained = "zoo:mamba-random"
layers = [2, 5]
[corpus]
source = "{text}"
context = 32
train_tokens = 3072
match_tokens = 2048
neuron_tokens = 512
quality_tokens = 512
[sae]
d_sae = 48
l1 = 1.0
batch = 128
epochs = 3
lr = 3e-3
[matching]
resamples = 4
null_exchanges = 1
space_tokens = 512
[interpretation]
top = 2
per_quantile = 1
context_tokens = 128
causal_pairs = 2
listed = 2
[circuits]
n_prompts = 32
length = 16
repeat = 4
discovery_prompts = 2
validated_edges = 2
[run]
dtype = "{dtype}"
"""
HOMOLOG = (
    "from tests.pipeline.outcome import leave_undrawn; leave_undrawn(setattr); "
    "from homolog.cli import main; main()"
)
COMPARISONS = {
    "main",
    "main-seed",
    "random-model",
    "own-random",
    "rotated",
    "tokens",
    "sae-seed",
    "neurons",
    "neurons-random",
}
TINY = {"llama": tiny_llama, "gpt2": tiny_gpt2}
KEYS = {"llama": "z.1.0", "gpt2": "z.2.1"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Documents so short that the few tokens of each use hold several."""
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    documents = [
        json.loads(line)["text"]
        for line in catalog.DEMO_TEXT.read_text(encoding="utf-8").splitlines()
    ]
    path.write_text("".join(json.dumps({"text": document[:500]}) + "\n" for document in documents))
    return str(path)


@pytest.fixture(scope="module")
def studies(text: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Study]:
    """The study in each precision, by the command; side by side, and without the checks of
    annotations, for time.
    """
    folder, root = tmp_path_factory.mktemp("runs"), Path(__file__).parents[2]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (root, root / "src"))),
    }
    started = {}
    for dtype in ("float32", *HALF):
        recipe = folder / f"{dtype}.toml"
        recipe.write_text(RECIPE.format(text=text, dtype=dtype))
        command = [
            sys.executable,
            "-c",
            HOMOLOG,
            "run",
            recipe,
            "--out",
            folder / dtype,
            "--threads",
            "1",
            "--quiet",
        ]
        started[dtype] = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=environment
        )
    complaints = {dtype: process.communicate()[1] for dtype, process in started.items()}
    assert {process.returncode for process in started.values()} == {0}, complaints
    return {dtype: Study.load(folder / dtype) for dtype in started}


def joined(tables: list[pl.DataFrame], keys: list[str], value: str) -> np.ndarray:
    """A column of two tables whose rows are the same, (2, row)."""
    a, b = tables
    both = a.join(b, on=keys, how="full", suffix="_half", nulls_equal=True)
    assert len(both) == len(a) == len(b) > 0
    return both.select(value, f"{value}_half").to_numpy().astype(float).T


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALF)
def test_a_study_is_whole_in_half_precision(dtype: str, studies: dict[str, Study]) -> None:
    wide, half = studies["float32"], studies[dtype]
    assert not half.run.get("failed") and not wide.run.get("failed")
    assert half.folder.verify() == []
    names = [{path.name for path in study.folder.path.glob("*.parquet")} for study in (wide, half)]
    assert names[0] == names[1]
    for name in (
        "features",
        "causal",
        "causal_auc",
        "substitutions",
        "loss_recovered",
        "lists",
        "transplant",
        "relation",
        "curves",
        "circuits",
        "effects",
        "roles",
        "offsets",
        "discoveries",
        "edges",
        "shared",
        "variance",
    ):
        assert f"{name}.parquet" in names[1]
    assert set(half.summary["comparison"]) == COMPARISONS
    assert half.features["context_tokens"].is_not_null().any()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALF)
def test_a_study_says_in_half_precision_what_it_says_in_float32(
    dtype: str, studies: dict[str, Study]
) -> None:
    wide, half = studies["float32"], studies[dtype]
    means = [s.summary.filter(comparison="main", stratum="all") for s in (wide, half)]
    r, r_half = joined(means, ["model", "best_model"], "mean")
    assert len(r) == 2 and np.abs(r_half - r).max() < 0.05
    for name, most in (("explained_variance", 0.02), ("loss_clean", 0.02)):
        exact, found = joined([wide.saes, half.saes], ["model", "label", "layer"], name)
        assert np.abs(found - exact).max() < most, name
    layers = [s.layers.filter(comparison="main") for s in (wide, half)]
    cka, cka_half = joined(layers, ["model", "layer", "best_model", "best_layer"], "cka")
    assert np.abs(cka_half - cka).max() < 0.02
    affine = [s.transplant.filter(map="affine") for s in (wide, half)]
    r2, r2_half = joined(affine, ["model", "layer", "source_model"], "r2")
    assert np.abs(r2_half - r2).max() < 0.05
    for column in ("key", "offset", "able"):
        found = [dict(s.circuits.select("model", column).iter_rows()) for s in (wide, half)]
        assert found[0] == found[1] and set(found[0]) == {"transformer-s0", "mamba-s0"}
    key = half.circuits.sort("model")["key"].to_list()
    assert key[0].startswith("state.") and key[1].startswith("z.")


def command(*arguments: object) -> str:
    found = CliRunner().invoke(app, [*map(str, arguments), "--quiet"])
    assert found.exit_code == 0, found.output
    return found.stdout


def train(
    model: object, out: Path, text: str, dtype: str, heldout: int, stream: str = "pool"
) -> None:
    command(
        "sae",
        "train",
        model,
        "--layers",
        1,
        "--d-sae",
        48,
        "--l1",
        1,
        "--tokens",
        4608,
        "--seeds",
        1,
        "--batch",
        256,
        "--context",
        32,
        "--heldout",
        heldout,
        "--stream",
        stream,
        "--threads",
        1,
        "--text",
        text,
        "--dtype",
        dtype,
        "--out",
        out,
    )


def measured(folder: Path, dtype: str) -> dict[str, Any]:
    return json.loads(command("sae", "eval", folder, "--dtype", dtype, "--json"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    ("model", "heldout", "stream"),
    [("transformer-s0", RECHECK_TOKENS + 224, "pool"), ("mamba-s0", 1056, "store")],
)
def test_dictionaries_trained_in_half_precision_are_as_good(
    model: str, heldout: int, stream: str, dtype: str, text: str, tmp_path: Path
) -> None:
    train(f"zoo:{model}", tmp_path, text, dtype, heldout, stream)
    folder = tmp_path / "saes" / model / "1"
    own, wide = measured(folder, dtype), measured(folder, "float32")
    if heldout >= RECHECK_TOKENS:
        assert own["agrees"] and wide["agrees"]
    for name in ("explained_variance", "loss_recovered"):
        assert abs(own["quality"][name] - own["carried"][name]) < 1e-6
        assert abs(own["quality"][name] - wide["quality"][name]) < 0.02
    assert load_sae(folder).W_dec.dtype == torch.float32


@pytest.fixture(scope="module", params=list(TINY))
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A model with random weights, with a tokenizer, in a folder."""
    folder = tmp_path_factory.mktemp("models") / f"tiny-{request.param}"
    return request.param, save_readable(folder, TINY[request.param])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALF)
def test_dictionaries_of_other_architectures(
    dtype: str, tiny: tuple[str, Path], text: str, tmp_path: Path
) -> None:
    train(tiny[1], tmp_path, text, dtype, 1056)
    folder = tmp_path / "saes" / model_name(str(tiny[1])) / "1"
    found = [
        measured(folder, precision)["quality"]["explained_variance"]
        for precision in (dtype, "float32")
    ]
    assert abs(found[0] - found[1]) < 0.02


@pytest.mark.parametrize("dtype", HALF)
def test_circuits_of_other_architectures(dtype: str, tiny: tuple[str, Path]) -> None:
    """Random weights cannot do the task: that is told, and what follows it is asked of a head by
    name.
    """
    prompts, found = Prompts(n_prompts=16, length=16, repeat=4, seed=0, batch=8), []
    eps = torch.finfo(getattr(torch, dtype)).eps
    for precision in ("float32", dtype):
        model = load(str(tiny[1]), dtype=getattr(torch, precision))
        with pytest.raises(Unable) as unable:
            trace_induction(model, prompts)
        offset = off_by_one(model, prompts, KEYS[tiny[0]])
        edges = discover(model, prompts.pairs(model, "replace_B")[:4], n_top=2, n_random=2, steps=2)
        assert edges.validation["effect"].is_finite().all()
        found.append((unable.value.ability, offset, edges.edges))
    (ability, offset, edges), (ability_half, offset_half, edges_half) = found
    assert abs(ability_half.logit_difference - ability.logit_difference) < 60 * eps
    changes = [
        torch.tensor([[row["effect"] for row in profile.rows()] for profile in o.profiles])
        for o in (offset, offset_half)
    ]
    assert (changes[1] - changes[0]).abs().max() < 60 * eps
    scores = joined([edges, edges_half], ["sender", "receiver", "tap", "position"], "score")
    assert np.abs(scores[1] - scores[0]).max() < 60 * eps * np.abs(scores[0]).max()
