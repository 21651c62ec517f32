"""What docs/adding.md shows works: each example is added from outside the package and run."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from tests.pipeline.outcome import RECIPE, leave_undrawn

from homolog import Study
from homolog.analyses import ANALYSES
from homolog.pipeline.recipes import load_recipe
from homolog.pipeline.run_study import run_study
from homolog.progress import SilentProgress
from homolog.record.comparisons import COMPARISONS

PAGE = Path(__file__).parents[1] / "docs" / "adding.md"
MOST_LINES = 40


def examples() -> dict[str, str]:
    """The examples of the page by the name of their module."""
    blocks = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    return dict(blocks)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the examples as modules; what they register is gone after the test."""
    for name, text in examples().items():
        (tmp_path / f"{name}.py").write_text(text, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    lists = (COMPARISONS, ANALYSES)
    before = [list(items) for items in lists]
    yield tmp_path
    for items, kept in zip(lists, before, strict=True):
        items[:] = kept
    for name in examples():
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", examples())
def test_an_example_is_short(name: str) -> None:
    lines = [line for line in examples()[name].splitlines() if line.strip()]
    assert len(lines) < MOST_LINES


@pytest.mark.slow
def test_a_comparison_and_an_analysis_run_through_a_study_into_its_report(
    outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_undrawn(monkeypatch.setattr)
    importlib.import_module("mirrored")
    importlib.import_module("drift")
    (outside / "added.toml").write_text(RECIPE)
    page = run_study(load_recipe(outside / "added.toml"), outside / "run", SilentProgress())
    study = Study.load(outside / "run")

    mirrored = study.matches.filter(comparison="mirrored", label="sae")
    assert set(mirrored["best_label"]) == {"mirrored"} and mirrored["r"].is_finite().any()
    main = study.matches.filter(comparison="main")
    key = ["model", "layer", "feature"]
    control = main.join(mirrored.select(*key, other="r"), on=key).filter(
        pl.col("other").is_finite()
    )
    assert (control["control_r"] >= control["other"]).all()

    ends = study.matches.filter(comparison="main").filter(pl.col("best_layer") >= 0)
    drift = ends.group_by("model").agg((pl.col("best_layer") - pl.col("layer")).mean())
    assert dict(study.drift.select("model", "drift").rows()) == pytest.approx(dict(drift.rows()))

    text = page.read_text("utf-8")
    assert "A mirrored dictionary" in text and 'id="drift"' in text
    assert all(f"<p>{model}: " in text for model in study.drift["model"])
    assert (page.parent / "figures" / "drift.vl.json").is_file()
    assert "drift.parquet" in text
