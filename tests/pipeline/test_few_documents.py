"""A text of one document: what resamples or exchanges documents is left out with its reason, and
nothing fails.
"""

from __future__ import annotations

import json

import polars as pl
import pytest
from tests.pipeline.outcome import MEANING, RECIPE, told

from homolog.pipeline.recipes import load_recipe
from homolog.pipeline.run_study import run_study
from homolog.progress import SilentProgress
from homolog.record.run_folder import RunFolder
from homolog.zoo import catalog


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("one")
    lines = catalog.DEMO_TEXT.read_text(encoding="utf-8").splitlines()
    (folder / "one.txt").write_text(
        "\n".join(json.loads(line)["text"] for line in lines[:12]), encoding="utf-8"
    )
    recipe = RECIPE.replace("zoo:demo", str(folder / "one.txt"))
    (folder / "one.toml").write_text(recipe + MEANING)
    run_study(load_recipe(folder / "one.toml"), folder / "run", SilentProgress())
    return RunFolder(folder / "run")


def test_intervals_are_undefined_and_not_of_width_zero(run: RunFolder) -> None:
    summary, shared = pl.read_parquet(run.table("summary")), pl.read_parquet(run.table("shared"))
    assert summary["mean"].is_finite().all()
    for name in ("mean_lo", "mean_hi", "median_lo", "median_hi"):
        assert summary[name].is_nan().all()
    assert (
        shared["lo"].is_null().all() and shared["hi"].is_null().all() and not shared["given"].any()
    )


def test_what_is_left_out_is_said_with_its_key_and_nothing_fails(run: RunFolder) -> None:
    record = run.record
    assert not record.get("failed")
    words = " ".join(record["warnings"])
    for said in (
        "the matched text is one document (corpus.match_tokens",
        "no intervals",
        "no null of the maximum",
        "left context that features need is not measured",
        "residuals are not transplanted",
        "features are not followed through layers",
    ):
        assert said in words
    page = told(run.report_folder)
    assert "residuals are not transplanted" in page
    assert not run.table("transplant").is_file() and run.table("features").is_file()
