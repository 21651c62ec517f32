"""The runner of analyses, with analyses that count how often they are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from homolog.analyses.analysis import Analysis, Tables, each_model
from homolog.analyses.material import Material
from homolog.engine import InProcess
from homolog.pipeline.analyses import is_made, run_analyses
from homolog.pipeline.context import Context
from homolog.progress import SilentProgress
from homolog.record.run_folder import RunFolder
from homolog.record.sides import Models, StudyModel
from homolog.record.table import Column, Table, write_table

COLUMNS = {"model": Column(pl.String, "the model"), "x": Column(pl.Float64, "a number")}
READ, JOINED, OWN, NEXT = (
    Table(name, "model", COLUMNS) for name in ("read", "joined", "own", "next")
)
LAYERS = Table("by_layer", "number", {"x": COLUMNS["x"]}, per_layer=True)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    run = RunFolder.open(tmp_path / "run", {"name": "runner"})
    models = Models((StudyModel("a", "compared"), StudyModel("b", "compared")), {}, {})
    material = Material(run.path, SimpleNamespace(), models)
    yield Context(run, material, InProcess(), SilentProgress(), None, 0)
    run.close()


class Measured:
    """A measure that keeps what it was asked, and fails for some models."""

    def __init__(self, *fails: str) -> None:
        self.fails, self.asked = set(fails), []

    def __call__(self, material: Material, model: str, layer: int = 0) -> Tables:
        self.asked.append(model)
        if model in self.fails:
            raise ValueError(f"no {model}")
        x = float(len(model)) if not material.has(READ) else material.table(READ)["x"][0]
        return {OWN.name: OWN.frame([{"model": model, "x": x}])}


def write(context: Context, table: Table, x: float) -> None:
    """A table by a stage of its own."""
    path = context.run.table(table)
    with context.run.stage(table.name, [path]):
        write_table(table.frame([{"model": "a", "x": x}]), path)


def add_joined(material: Material, tables: Tables) -> Tables:
    """Adds the number of the joined table, where there is one."""
    more = material.table(JOINED)["x"][0] if material.has(JOINED) else 0.0
    return {OWN.name: tables[OWN.name].with_columns(pl.col("x") + more)}


def an_analysis(measure: Callable[..., Tables], **more: Any) -> Analysis:
    return Analysis("own", tables=(OWN,), units=each_model, measure=measure, **more)


def numbers(context: Context, table: Table = OWN) -> list[float]:
    return context.material.table(table)["x"].to_list()


def test_what_is_joined_changes_without_measuring_again(context: Context) -> None:
    measure = Measured()
    analysis = an_analysis(measure, reads=(READ,), joins=(JOINED,), finish=add_joined)
    write(context, READ, 1.0)
    run_analyses(context, [analysis])
    assert numbers(context) == [1.0, 1.0] and measure.asked == ["a", "b"]
    run_analyses(context, [analysis])
    assert measure.asked == ["a", "b"]
    write(context, JOINED, 10.0)
    assert not is_made(context.run, analysis)
    run_analyses(context, [analysis])
    assert numbers(context) == [11.0, 11.0] and measure.asked == ["a", "b"]
    write(context, READ, 2.0)
    run_analyses(context, [analysis])
    assert numbers(context) == [12.0, 12.0] and measure.asked == ["a", "b"] * 2


def test_what_reads_a_table_that_is_made_again_is_made_again_too(context: Context) -> None:
    first, seen = an_analysis(Measured(), reads=(READ,)), []

    def measure(material: Material, model: str) -> Tables:
        seen.append(material.table(OWN)["x"][0])
        return {NEXT.name: NEXT.frame([{"model": model, "x": seen[-1]}])}

    second = replace(first, name="next", tables=(NEXT,), reads=(OWN,), measure=measure)
    for x in (1.0, 2.0):
        write(context, READ, x)
        run_analyses(context, [first, second])
    assert seen == [1.0, 1.0, 2.0, 2.0] and numbers(context, NEXT) == [2.0, 2.0]


def test_functions_go_by_their_names(context: Context) -> None:
    analysis = an_analysis(f"{__name__}:named", says=f"{__name__}:said")  # type: ignore[arg-type]
    run_analyses(context, [analysis])
    assert numbers(context) == [7.0, 7.0] and context.run.record["own"] == [{"words": "2 rows"}]


def named(material: Material, model: str) -> Tables:
    """A measure."""
    return {OWN.name: OWN.frame([{"model": model, "x": 7.0}])}


def said(material: Material) -> list[dict[str, str]]:
    """Words."""
    return [{"words": f"{len(material.table(OWN))} rows"}]


def test_a_run_stopped_as_the_words_are_written_writes_them(context: Context) -> None:
    def stopped(material: Material) -> list[dict[str, Any]]:
        raise KeyboardInterrupt

    measure = Measured()
    with pytest.raises(KeyboardInterrupt):
        run_analyses(context, [an_analysis(measure, says=stopped)])
    run_analyses(context, [an_analysis(measure, says=said)])
    assert context.run.record["own"] == [{"words": "2 rows"}] and measure.asked == ["a", "b"]


def test_of_an_analysis_that_fails_no_old_table_stays(context: Context) -> None:
    analysis = an_analysis(Measured())
    run_analyses(context, [analysis])
    context.run.table(OWN).write_bytes(b"damaged")
    context.run.drop_cache()
    run_analyses(context, [an_analysis(Measured("b"))])
    assert set(context.failed) == {"own"} and not context.material.has(OWN)
    measure = Measured()
    run_analyses(context, [an_analysis(measure)])
    assert measure.asked == ["b"] and numbers(context) == [1.0, 1.0] and not context.failed


def test_units_that_fail_stay_named_when_the_whole_fails(context: Context) -> None:
    def run(*fails: str) -> set[str]:
        run_analyses(context, [an_analysis(Measured(*fails), units_may_fail=True)])
        return set(context.failed)

    assert run("a", "b") == {"own", "own a", "own b"}
    assert run("b") == {"own b"} and context.material.table(OWN)["model"].to_list() == ["a"]
    assert run() == set() and context.material.table(OWN)["model"].to_list() == ["a", "b"]


def test_files_of_a_layer_have_no_receipts_beside_them(context: Context) -> None:
    def measure(material: Material, model: str, layer: int) -> Tables:
        return {LAYERS.name: LAYERS.frame([{"x": float(layer)}])}

    units = [("a", 0), ("a", 1)]
    analysis = Analysis("layers", tables=(LAYERS,), units=lambda _: units, measure=measure)
    run_analyses(context, [analysis])
    folder = context.run.path / LAYERS.name
    assert [file.name for file in sorted(folder.rglob("*.*"))] == ["0.parquet", "1.parquet"]
    (folder / "a" / "1.parquet").write_bytes(b"")
    run_analyses(context, [analysis])
    assert LAYERS.read(context.run.table(LAYERS, "a", 1))["x"].to_list() == [1.0]
    assert context.run.verify() == []


def test_a_damaged_table_of_a_command_of_its_own_is_put_away(context: Context) -> None:
    asked = Analysis("joined", tables=(JOINED,))
    analysis = an_analysis(Measured(), joins=(JOINED,), finish=add_joined)
    write(context, JOINED, 10.0)
    run_analyses(context, [analysis, asked])
    assert numbers(context) == [11.0, 11.0]
    context.run.table(JOINED).write_bytes(b"damaged")
    run_analyses(context, [analysis, asked])
    assert numbers(context) == [1.0, 1.0] and context.run.verify() == []
