"""Studies of a model whose architecture has no adapter of its own: what they can do, and what they
refuse at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.pipeline.outcome import beside_the_zoo
from tests.reference.tiny_models import save_readable, tiny_opt

from homolog.circuits.induction import Prompts, trace_induction
from homolog.errors import InputError
from homolog.models import load
from homolog.pipeline import Study
from homolog.pipeline.circuits import run_circuits
from homolog.pipeline.recipes import parse_circuits
from homolog.pipeline.run_study import run_study
from homolog.progress import SilentProgress
from homolog.record.recipe import Recipe

SMALL = {"n_prompts": 4, "length": 16, "batch": 4, "discovery_prompts": 4, "validated_edges": 3}


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-opt"
    return save_readable(folder, tiny_opt, max_position_embeddings=128)


def recipe(folder: Path, **changes: Any) -> Recipe:
    return beside_the_zoo(folder, {}, 1.0, **{"controls": {"neurons": False}} | changes)


@pytest.mark.slow
def test_features_of_a_model_without_own_adapter_are_compared(opt, tmp_path):
    run_study(recipe(opt), tmp_path / "run", SilentProgress())
    study = Study.load(tmp_path / "run")
    main = study.summary.filter(pl.col("comparison") == "main", pl.col("stratum") == "all")
    name = opt.name
    assert set(main.get_column("model")) == {"transformer-s0", name}
    assert set(study.saes.filter(pl.col("model") == name).get_column("layer")) == {0, 1, 2}
    assert study.saes.get_column("loss_clean").is_finite().all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"controls": {"neurons": True}},
            ["reading neurons", "'opt' has none", "Set controls.neurons = false."],
        ),
        (
            {"circuits": SMALL},
            ["tracing circuits", "'opt' has none", "Leave [circuits] out of the recipe."],
        ),
    ],
)
def test_neurons_and_circuits_are_refused_before_any_work(changes, words, opt, tmp_path):
    with pytest.raises(InputError) as error:
        run_study(recipe(opt, **changes), tmp_path / "run", SilentProgress())
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_circuits_study_refuses_it_before_any_work(opt, tmp_path):
    asked = parse_circuits(
        {"name": "small", "models": ["zoo:transformer-s0", str(opt)], "circuits": SMALL}
    )
    with pytest.raises(
        InputError,
        match=r"tracing circuits.*'opt' has none \(\d+ have: docs/sites.md\)",
    ):
        run_circuits(asked, tmp_path / "run", SilentProgress())
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"opt has no path patching.*docs/architectures.md"):
        trace_induction(load(opt), Prompts(4, 16, 1, 0, 4))
