"""The analyses of a study: each a stage whose tasks write parts, and the parts its tables.

An analysis is done while its tables are as they were written, and made of the tables that the run
has now: when one of those that it reads has changed, it is made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from homolog.analyses.analysis import Analysis, Unit
from homolog.analyses.material import Material
from homolog.pipeline.context import Context
from homolog.record.atomic import sha256_bytes
from homolog.record.receipts import read_receipt, write_receipt
from homolog.record.run_folder import RunFolder
from homolog.record.table import Table, write_table


def run_analyses(context: Context, analyses: Sequence[Analysis]) -> None:
    """Make what is missing of these analyses, in their order; one that fails takes only itself."""
    for analysis in analyses:
        material = context.material
        if analysis.measure is None or not analysis.wanted(material.recipe):
            continue
        if analysis.left_out(material) is not None:
            continue
        failed = any(work.split(" ")[0] == analysis.name for work in context.failed)
        if is_made(context.run, analysis) and not failed:
            continue
        with context.apart(analysis.name):
            _run(context, analysis)


def is_made(run: RunFolder, analysis: Analysis) -> bool:
    """Whether the analysis is complete, and of the tables as they are now."""
    return run.is_done(analysis.name) and run.facts(analysis.name).get("of") == _of(run, analysis)


def words_left_out(material: Material, analyses: Sequence[Analysis]) -> list[str]:
    """In words, the analyses that the recipe wants and this text or these models do not allow."""
    wanted = [a for a in analyses if a.measure is not None and a.wanted(material.recipe)]
    return [words for a in wanted if (words := a.left_out(material)) is not None]


def title_of(analysis: Analysis, unit: Unit = ()) -> str:
    """What the progress display calls an analysis, or a unit of it that may fail alone."""
    return ": ".join([analysis.title or analysis.name, *filter(None, [" ".join(map(str, unit))])])


def measure_unit(
    material: Material, measure: Callable[..., Any], unit: Unit, files: dict[str, Path], key: str
) -> None:
    """Task: one unit of an analysis, written to its files, unless a receipt says they are there."""
    receipt = next(iter(files.values())).with_suffix(".json")
    if read_receipt(receipt, key) is None:
        frames = measure(material, *unit)
        assert frames.keys() == files.keys(), (frames.keys(), files.keys())
        for name, frame in frames.items():
            write_table(frame, files[name])
        write_receipt(receipt, True, list(files.values()), key)


def _run(context: Context, analysis: Analysis) -> None:
    run, material = context.run, context.material
    of = _of(run, analysis)
    units = list(analysis.units(material))
    outputs = [run.folder_of(table) for table in analysis.tables]
    with run.stage(analysis.name, outputs) as facts:
        parts = [_files(run, analysis, unit) for unit in units]
        calls = [
            {
                "measure": analysis.measure,
                "unit": unit,
                "files": files,
                "key": sha256_bytes(analysis.name, json.dumps(unit), of),
            }
            for unit, files in zip(units, parts, strict=True)
        ]
        made = _measured(context, analysis, units, calls)
        frames = {
            table.name: _joined(table, [parts[i][table.name] for i in made])
            for table in analysis.tables
            if not table.per_layer
        }
        if analysis.finish is not None:
            frames = dict(analysis.finish(material, frames))
        for table in analysis.tables:
            if not table.per_layer:
                table.write(frames[table.name], run.table(table))
        facts["of"] = of
    if analysis.says is not None:
        run.note(**{analysis.name: analysis.says(material)})


def _measured(
    context: Context, analysis: Analysis, units: list[Unit], calls: list[dict[str, Any]]
) -> list[int]:
    """Run the tasks; the numbers of those that succeeded: all, unless they may fail alone."""
    if not analysis.units_may_fail:
        context.tasks(title_of(analysis), measure_unit, calls)
        return list(range(len(units)))
    works = [" ".join([analysis.name, *map(str, unit)]) for unit in units]
    for unit, work, call in zip(units, works, calls, strict=True):
        with context.apart(work):
            context.tasks(title_of(analysis, unit), measure_unit, [call])
    made = [number for number, work in enumerate(works) if work not in context.failed]
    if not made:
        raise RuntimeError(f"{title_of(analysis)}: nothing of it succeeded")
    return made


def _files(run: RunFolder, analysis: Analysis, unit: Unit) -> dict[str, Path]:
    """Where the frames of a unit go: those per layer to their place, others to the cache."""
    folder = run.cache_folder / "analyses" / analysis.name / ".".join(map(str, unit or ("all",)))
    return {
        table.name: run.table(table, *unit).absolute()
        if table.per_layer
        else (folder / f"{table.name}.parquet").absolute()
        for table in analysis.tables
    }


def _joined(table: Table, files: list[Path]) -> pl.DataFrame:
    if not files:
        return table.frame()
    return pl.concat([pl.read_parquet(file) for file in files], how="diagonal")


def _of(run: RunFolder, analysis: Analysis) -> str:
    """Identifies what an analysis is made of: the recipe, and the tables that it reads."""
    tables = [f"{table.name} {run.checksum(run.table(table))}" for table in analysis.reads]
    return sha256_bytes(run.record["recipe_hash"], *tables)
