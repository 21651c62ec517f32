"""`Study`: a finished run as tables, for notebooks and scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from homolog.analyses import ANALYSES
from homolog.errors import InputError
from homolog.record.run_folder import RunFolder
from homolog.record.table import Table
from homolog.record.tables import CONTEXTS, TABLES
from homolog.report.export import InlineFigure, figure_specs


@dataclass(frozen=True)
class Study:
    """One run folder: `study.matches`, `study.layers` and every other table of docs/tables.md.

    Tables are polars frames, read and checked when first asked for.  A name that is no table raises
    AttributeError, a table that the run does not have InputError.
    """

    folder: RunFolder

    @classmethod
    def load(cls, path: Path | str) -> Study:
        """The run in the folder `path`; InputError when there is none."""
        return cls(RunFolder(Path(path)))

    @property
    def run(self) -> dict[str, Any]:
        """run.json."""
        return self.folder.record

    @cached_property
    def tables(self) -> Mapping[str, Table]:
        """Every table that a run may have, by name: those that ship and those of added analyses."""
        added = [table for analysis in ANALYSES for table in analysis.tables]
        return {table.name: table for table in (*TABLES, *added)}

    @cached_property
    def _read(self) -> dict[Path, pl.DataFrame]:
        return {}

    def __getattr__(self, name: str) -> pl.DataFrame:
        if name.startswith("_") or name not in self.tables or self.tables[name].per_layer:
            raise AttributeError(f"a study has no table {name!r}: {', '.join(self.tables)}")
        return self._table(self.tables[name], self.folder.table(name))

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *self.tables])

    def contexts(self, model: str, layer: int) -> pl.DataFrame:
        """Examples of the features of a layer, one row per example."""
        return self._table(CONTEXTS, self.folder.table(CONTEXTS, model, layer))

    @property
    def figures(self) -> dict[str, InlineFigure]:
        """Charts of the report by name; a notebook draws one that is the last value of a cell."""
        specs = figure_specs(self.folder.report_folder)
        return {
            name: InlineFigure(json.loads(file.read_text("utf-8"))) for name, file in specs.items()
        }

    def _table(self, table: Table, path: Path) -> pl.DataFrame:
        if path not in self._read:
            if not path.is_file():
                requirement = f"it has no {path.name} yet"
                remedy = "Finish the run: start it again with the same recipe and --out."
                raise InputError("run folder", str(self.folder.path), requirement, remedy)
            self.folder.require_whole(path)
            there = pl.read_parquet_schema(path)
            self._read[path] = table.read(path, [name for name in table.columns if name in there])
        return self._read[path]
