"""Tables of a run as CSV, for what does not read Parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from homolog.errors import InputError, require_one_of
from homolog.pipeline.study import Study
from homolog.record.atomic import atomic_path
from homolog.record.table import Table


def export_tables(study: Study, out: Path | str, names: Sequence[str] = ()) -> list[Path]:
    """Write the tables of a study into the folder `out` as CSV; returns the files.

    names: of docs/tables.md; all that the run has where none are given.  A table with a file for
    each layer keeps its folders.  Numbers read back as they were, null is an empty cell, NaN is
    "NaN", a list is JSON.  Errors: InputError for a name that is no table, a table that the run
    does not have, and a file that is not as it was written.
    """
    known = study.tables
    for name in names:
        require_one_of("table", name, known)
    files = []
    for table in (known[name] for name in names or known):
        there = _files(study, table)
        if names and not there:
            has = [table.name for table in known.values() if _files(study, table)]
            requirement = f"{study.folder.path} has {', '.join(has)}"
            raise InputError("table", table.name, requirement, "Give one of these.")
        for file in there:
            study.folder.require_whole(file)
            place = file.relative_to(study.folder.path).with_suffix(".csv")
            with atomic_path(Path(out) / place) as partial:
                flat(table.read(file)).write_csv(partial)
            files.append(Path(out) / place)
    return files


def _files(study: Study, table: Table) -> list[Path]:
    place = study.folder.folder_of(table)
    return [place] if place.is_file() else sorted(place.rglob("*.parquet"))


def flat(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with lists as JSON."""
    lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List)]
    return frame.with_columns(
        pl.Series(name, [_json(value) for value in frame[name].to_list()], pl.String)
        for name in lists
    )


def _json(value: list[Any] | None) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
