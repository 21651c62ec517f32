"""A study over revisions of one model, to its report."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from tests.pipeline.outcome import beside_the_zoo, told

from homolog.pipeline import Study
from homolog.pipeline.run_study import run_study
from homolog.progress import SilentProgress


@pytest.mark.slow
def test_a_study_over_training_has_its_section(tmp_path: Path) -> None:
    entries = [
        {"ref": "zoo:transformer-s0#noise={revision}", "name": "shaken"}
        | {"revisions": ["3", "1"], "untrained": "random"},
        {"ref": "zoo:mamba-s0"},
    ]
    controls = {"neurons": False, "sae_seed": False, "stability": False}
    gates = {"explained_variance": -9.0, "loss_recovered": -9.0, "dead_share": 1.0}
    recipe = beside_the_zoo(tmp_path, {}, 1.0, models=entries, controls=controls, gates=gates)
    page = run_study(recipe, tmp_path / "run", SilentProgress())
    study = Study.load(tmp_path / "run")
    assert set(study.shared.select("model", "best_model").rows()) == {
        *(("shaken-3", "mamba-s0"), ("mamba-s0", "shaken-3")),
        *(("shaken-1", "mamba-s0"), ("mamba-s0", "shaken-1")),
    }
    twins = study.summary.filter(pl.col("comparison") == "own-random")
    assert {tuple(sorted(pair)) for pair in twins.select("model", "best_model").rows()} == {
        ("shaken-1", "shaken-untrained"),
        ("shaken-3", "shaken-untrained"),
    }
    text = told(page.parent)
    assert "How does what they share change in training?" in text
    assert "shaken in mamba-s0" in text and "mamba-s0 in shaken" in text
