"""The analyses of a study: each a stage whose tasks write parts, and the parts its tables.

An analysis is done while its tables are as they were written, and made of the tables that the run
has now: when one of those that it reads has changed, it is made again.  A part has a receipt in the
cache, and is made again when what it was measured on has changed, or its own files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from homolog.analyses.analysis import Analysis, Named, Unit, function_of
from homolog.analyses.material import Material
from homolog.pipeline.context import Context
from homolog.record.atomic import sha256_bytes
from homolog.record.receipts import read_receipt, write_receipt
from homolog.record.run_folder import RunFolder
from homolog.record.table import Table, write_table


def run_analyses(context: Context, analyses: Sequence[Analysis]) -> None:
    """Make what is missing of these analyses, in their order; one that fails takes only itself."""
    for analysis in analyses:
        if not is_told(context.run, analysis):
            _forget_told(context, analysis)
    for analysis in analyses:
        if is_due(context.material, analysis):
            works = (analysis.name, f"{analysis.name} ")
            failed = any(work == works[0] or work.startswith(works[1]) for work in context.failed)
            if failed or not is_made(context.run, analysis):
                with context.apart(analysis.name):
                    _run(context, analysis)


def is_due(material: Material, analysis: Analysis) -> bool:
    """Whether a run measures the analysis: its recipe wants it, and it can be made."""
    wanted = analysis.measure is not None and analysis.wanted(material.recipe)
    return wanted and analysis.left_out(material) is None


def is_made(run: RunFolder, analysis: Analysis) -> bool:
    """Whether the analysis is complete, and of the tables as they are now."""
    of = _of(run, analysis, (*analysis.reads, *analysis.joins))
    return run.is_done(analysis.name) and run.facts(analysis.name).get("of") == of


def is_told(run: RunFolder, analysis: Analysis) -> bool:
    """Whether what only a command of its own writes, as `homolog rate`, is whole or not there."""
    made = analysis.measure is None and analysis.name in run.record["stages"]
    return not made or run.is_done(analysis.name)


def words_left_out(material: Material, analyses: Sequence[Analysis]) -> list[str]:
    """In words, the analyses that the recipe wants and this text or these models do not allow."""
    wanted = [a for a in analyses if a.measure is not None and a.wanted(material.recipe)]
    return [words for a in wanted if (words := a.left_out(material)) is not None]


def title_of(analysis: Analysis, unit: Unit = ()) -> str:
    """What the progress display calls an analysis, or a unit of it that may fail alone."""
    return ": ".join([analysis.title or analysis.name, *filter(None, [" ".join(map(str, unit))])])


@dataclass(frozen=True)
class UnitPart:
    """What one task of an analysis writes: its frames by table, and a receipt for them."""

    unit: Unit
    files: dict[str, Path]
    receipt: Path
    key: str

    @property
    def is_made(self) -> bool:
        """Whether its files are there, as they were written for this key."""
        return read_receipt(self.receipt, self.key) is not None

    def forget(self) -> None:
        """Remove its files, which are of something else, damaged, or not complete."""
        for file in (self.receipt, *self.files.values()):
            file.unlink(missing_ok=True)


def measure_unit(material: Material, measure: Callable[..., Any] | Named, part: UnitPart) -> None:
    """Task: one unit of an analysis, written to its files, unless a receipt says they are there."""
    if not part.is_made:
        frames = function_of(measure)(material, *part.unit)
        assert frames.keys() == part.files.keys(), (frames.keys(), part.files.keys())
        for name, frame in frames.items():
            write_table(frame, part.files[name])
        write_receipt(part.receipt, True, list(part.files.values()), part.key)


def _run(context: Context, analysis: Analysis) -> None:
    run, material = context.run, context.material
    of = _of(run, analysis, (*analysis.reads, *analysis.joins))
    measured = _of(run, analysis, analysis.reads)
    parts = [_part(run, analysis, unit, measured) for unit in analysis.units(material)]
    joined = [table for table in analysis.tables if not table.per_layer]
    with run.stage(analysis.name, [run.folder_of(table) for table in analysis.tables]) as facts:
        for table in joined:  # where the analysis fails, no reader takes the old ones for its own
            run.table(table).unlink(missing_ok=True)
        for part in parts:
            if not part.is_made:
                part.forget()
        made = _measured(context, analysis, parts)
        frames = {t.name: _joined(t, [part.files[t.name] for part in made]) for t in joined}
        if analysis.finish is not None:
            frames = function_of(analysis.finish)(material, frames)
        for table in joined:
            table.write(frames[table.name], run.table(table))
        if analysis.says is not None:
            run.note(**{analysis.name: function_of(analysis.says)(material)})
        facts["of"] = of


def _measured(context: Context, analysis: Analysis, parts: list[UnitPart]) -> list[UnitPart]:
    """Run the tasks; the parts that succeeded: all, unless they may fail alone."""
    calls = [{"measure": analysis.measure, "part": part} for part in parts]
    if not analysis.units_may_fail:
        context.tasks(title_of(analysis), measure_unit, calls)
        return parts
    made = []
    for part, call in zip(parts, calls, strict=True):
        work = " ".join([analysis.name, *map(str, part.unit)])
        with context.apart(work):
            context.tasks(title_of(analysis, part.unit), measure_unit, [call])
        if work not in context.failed:
            made.append(part)
    if not made:
        raise RuntimeError(f"{title_of(analysis)}: nothing of it succeeded")
    return made


def _part(run: RunFolder, analysis: Analysis, unit: Unit, of: str) -> UnitPart:
    """Where the frames of a unit go: those per layer to their place, others to the cache."""
    folder = run.cache_folder.absolute().joinpath("analyses", analysis.name, *map(str, unit))
    files = {
        table.name: run.table(table, *unit).absolute()
        if table.per_layer
        else folder / f"{table.name}.parquet"
        for table in analysis.tables
    }
    key = sha256_bytes(analysis.name, json.dumps(unit), of)
    return UnitPart(unit, files, folder / "receipt.json", key)


def _forget_told(context: Context, analysis: Analysis) -> None:
    """Lest anything reads what is damaged: as if the command that wrote it had never run."""
    context.run.forget(analysis.name)
    words = f"the tables of {analysis.title!r} were damaged and are removed; ask for them again"
    context.progress.note(f"Left out: {words}.")


def _joined(table: Table, files: list[Path]) -> pl.DataFrame:
    if not files:
        return table.frame()
    joined = pl.concat([pl.read_parquet(file) for file in files], how="diagonal")
    known = [name for name in table.columns if name in joined.columns]
    return joined.select(*known, pl.exclude(known))  # where only some files have optional columns


def _of(run: RunFolder, analysis: Analysis, tables: Sequence[Table]) -> str:
    """Identifies what an analysis is made of: the recipe as the run began, and tables of others."""
    assert not any(table.per_layer for table in tables), f"{analysis.name} reads one per layer"
    known = [f"{table.name} {run.checksum(run.table(table))}" for table in tables]
    return sha256_bytes(run.begun_with, *known)
