"""The table of a grid, as its figure and its page read it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from homolog.analyses.records import Records, run_of
from homolog.record.run_folder import RunFolder
from homolog.record.tables import GRID


@dataclass(frozen=True)
class GridRecords(Records):
    """What the page of a grid says comes from here."""

    @cached_property
    def cells(self) -> pl.DataFrame:
        """The table `grid`."""
        return self.table(GRID)

    @property
    def names(self) -> tuple[str, ...]:
        """The compared models."""
        return tuple(dict.fromkeys(self.cells["model"]))

    @property
    def directions(self) -> list[tuple[str, str]]:
        """(model, best_model), in the order of the table."""
        return self.cells.select("model", "best_model").unique(maintain_order=True).rows()

    @property
    def words(self) -> list[str]:
        """What run.json says of each direction."""
        return [str(entry.get("words")) for entry in self.run.get("verdicts") or []]


def read_grid(path: Path) -> GridRecords | None:
    """What the run folder at `path` says of its cells; None where it is not of a grid."""
    folder = RunFolder(path)
    return GridRecords(path, run_of(folder)) if folder.table(GRID).is_file() else None
