"""What fails takes nothing from the rest: the report names it, and the same command again makes
that alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from tests.pipeline.outcome import RECIPE, files, told

from homolog import terminal
from homolog.analyses.induction import measure as induction
from homolog.analyses.transplant import measure as transplant
from homolog.pipeline import comparing, spaces
from homolog.pipeline.circuits import run_circuits
from homolog.pipeline.recipes import load_recipe, parse_circuits
from homolog.pipeline.run_study import finished_report, run_study
from homolog.progress import Bar, SilentProgress
from homolog.record.recipe import Recipe
from homolog.record.run_folder import RunFolder

MORE = """
[interpretation]
top = 2
context_tokens = 256
causal_pairs = 2
listed = 2
[circuits]
n_prompts = 16
length = 16
repeat = 4
discovery_prompts = 2
validated_edges = 2
"""
ROTATED = "match rotated.transformer-s0@sae.transformer-s1@rotated"
SPACES = "spaces main.transformer-s0@sae.transformer-s1@sae"
TRANSPLANT = "transplant"
CIRCUIT = "induction transformer-s1"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "failures.toml"
    text = RECIPE.replace("rotated = false", "rotated = true")
    text = text.replace("quality_tokens = 512", "quality_tokens = 4096")
    path.write_text(text.replace("[[models]]", "[[models]]\nlayers = [1, 3]") + MORE)
    return load_recipe(path)


class Noted(SilentProgress):
    """Keeps which stages were announced, and which came."""

    def __init__(self) -> None:
        self.planned: list[str] = []
        self.came: list[str] = []

    def plan(self, expected_seconds: Mapping[str, float]) -> None:
        self.planned = list(expected_seconds)

    def stage(self, name: str, total: float | None = None) -> AbstractContextManager[Bar]:
        self.came.append(name)
        return super().stage(name, total)


@pytest.fixture(scope="module")
def progress() -> Noted:
    return Noted()


@pytest.fixture(scope="module")
def runs(recipe: Recipe, progress: Noted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole`: an undisturbed run; `failed`: one in which four things fail, of each kind of work
    one.
    """
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        run_study(recipe, folder / "whole", progress, threads=1)
        for module, function, when in (
            (induction, "trace_induction", lambda model, *_: model.name.endswith("s1")),
            (spaces, "similarity", lambda *_, **__: True),
            (comparing, "tables_of", lambda *_, comparison, **__: comparison == "rotated"),
            (transplant, "measure_pair", lambda *_, **__: True),
        ):
            patch.setattr(module, function, failing(getattr(module, function), when))
        run_study(recipe, folder / "failed", SilentProgress(), threads=1)
    return folder


def failing(function: Any, when: Any) -> Any:
    def fails(*args: Any, **kwargs: Any) -> Any:
        if when(*args, **kwargs):
            raise MemoryError("planted")
        return function(*args, **kwargs)

    return fails


def test_every_stage_that_is_announced_comes(runs: Path, progress: Noted) -> None:
    """The estimate of the time left goes by their names."""
    sinks = {"sinks of transformer-s0", "sinks of transformer-s1"}  # norms tell of none
    assert len(progress.planned) > 8 and set(progress.planned) - set(progress.came) == sinks


def test_what_failed_is_named_in_the_record_and_in_the_report(runs: Path) -> None:
    failed = RunFolder(runs / "failed").record["failed"]
    rotated = "match rotated.transformer-s1@sae.transformer-s0@rotated"
    assert set(failed) == {CIRCUIT, SPACES, ROTATED, rotated, TRANSPLANT}
    assert {why["error"] for why in failed.values()} == {"MemoryError: planted"}
    assert all("planted" in why["traceback"] for why in failed.values())
    page = told(runs / "failed" / "report")
    assert page.count("Not part of this report, for it failed") == 5 and CIRCUIT in page


def test_the_command_line_names_what_failed_and_ends_with_1(
    runs: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = failing(induction.trace_induction, lambda *_: True)
    monkeypatch.setattr(induction, "trace_induction", fails)
    values = {"name": "two", "models": ["zoo:transformer-s0", "zoo:mamba-s0"]}
    with pytest.raises(
        RuntimeError, match="no circuit could be traced: MemoryError: planted; MemoryError: planted"
    ):
        run_circuits(parse_circuits(values), runs / "none", SilentProgress())
    record = RunFolder(runs / "failed").record
    with pytest.raises(typer.Exit) as ended:
        terminal.say_report(runs / "failed" / "report" / "index.html", record)
    assert ended.value.exit_code == 1
    terminal.say_report(runs / "whole" / "report" / "index.html", RunFolder(runs / "whole").record)


def test_the_rest_is_as_in_an_undisturbed_run(runs: Path) -> None:
    whole, failed = (
        {path.stem: pl.read_parquet(path) for path in (runs / name).glob("*.parquet")}
        for name in ("whole", "failed")
    )
    assert set(whole) - set(failed) == {"transplant"}
    assert failed["features"].equals(whole["features"])
    others = pl.col("comparison") != "rotated"
    own = ["model", "layer", "feature", "best_model", "best_layer", "best_feature", "r", "q"]
    assert failed["matches"].select(own).equals(whole["matches"].filter(others).select(own))
    assert failed["layers"].drop("cka", "svcca").height == whole["layers"].filter(others).height
    assert failed["layers"]["cka"].is_null().all()
    for name in ("circuits", "effects", "roles", "edges", "offsets"):
        assert failed[name].equals(
            whole[name].filter(model="transformer-s0").select(failed[name].columns)
        )
    words = failed["shared"]["words"].to_list()
    assert all("rotated dictionaries" in text or "No verdict" in text for text in words)


def test_the_same_command_again_makes_what_is_missing_and_nothing_else(
    runs: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced, trace = [], induction.trace_induction

    def trace_induction(model: Any, prompts: Any) -> Any:
        traced.append(model.name)
        return trace(model, prompts)

    monkeypatch.setattr(induction, "trace_induction", trace_induction)
    assert finished_report(recipe, runs / "failed") is None
    before = RunFolder(runs / "failed").record["stages"]
    run_study(recipe, runs / "failed", SilentProgress(), threads=1)
    after = RunFolder(runs / "failed").record
    again = {
        name
        for name in after["stages"]
        if after["stages"][name].get("started") != before.get(name, {}).get("started")
    }
    assert after["failed"] == {}
    assert files(runs / "failed") == files(runs / "whole")
    assert finished_report(recipe, runs / "failed") is not None
    assert len(traced) == 1 and traced[0].endswith("transformer-s1")
    assert not any(name.startswith(("dictionaries", "features")) for name in again)
    kept = {"left_context", "scatter", "relation", "causal", "exclusive"}
    assert "transplant" in again and "left_context" not in again and kept <= after["stages"].keys()
