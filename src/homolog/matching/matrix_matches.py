"""What was found between two feature matrices: tables, shares and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from homolog.matching.homologs import Criterion, classify
from homolog.matching.intervals import INTERVAL
from homolog.record import atomic
from homolog.record.comparisons import MAIN
from homolog.record.table import write_table


class Share(NamedTuple):
    """A share of alive features, and the 95 % interval from documents; None where withheld."""

    value: float | None
    lo: float | None
    hi: float | None


@dataclass(frozen=True, eq=False)
class MatrixMatches:
    """The matches of two feature matrices, and what they say.

    matches: the columns of a study's matches.parquet (docs/tables.md), and r_lo and r_hi, the 95 %
    interval of r over documents with its partner fixed; one row per feature and comparison.
    verdicts: the columns of its shared.parquet, one row per direction.
    names: of the two sides.  documents: in words, what was exchanged and resampled.
    notes: what to beware of.  settings: by name.
    criterion, beyond: what makes a match a homolog, and what each partner explains beyond the
    controls (`BEYOND`, in the order of the table): see `under`.
    """

    matches: pl.DataFrame
    verdicts: pl.DataFrame
    names: tuple[str, str]
    n_rows: int
    documents: str
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    criterion: Criterion
    beyond: pl.DataFrame

    @property
    def table(self) -> pl.DataFrame:
        """The matches of the two sides: one row per feature of either."""
        return self.matches.filter(comparison=MAIN.name)

    @property
    def controls(self) -> pl.DataFrame:
        """The best partner of each feature in each control."""
        return self.matches.filter(pl.col("comparison") != MAIN.name)

    @property
    def share(self) -> dict[str, Share]:
        """For each side, the share of its alive features that have a homolog in the other."""
        rows = self.verdicts.select("model", "share", "lo", "hi").rows()
        return {name: Share(*numbers) for name, *numbers in rows}

    @property
    def controls_used(self) -> list[str]:
        """In words, what matches were held against."""
        return [baseline.words for baseline in self.criterion.baselines]

    def under(self, **changes: float) -> pl.DataFrame:
        """The table classified by a criterion with other numbers, as `margin` or `rival_ratio`."""
        other = classify(self.matches, replace(self.criterion, **changes), self.beyond)
        return other.filter(comparison=MAIN.name)

    @property
    def words(self) -> str:
        """The verdict of each direction, what it was held against, and what to beware of."""
        held = ", ".join(self.controls_used) or "none"
        rows = f"{self.n_rows:,} rows in {self.documents}. Controls: {held}."
        notes = [f"{note[0].upper()}{note[1:]}." for note in self.notes]
        return "\n".join([*self.verdicts["words"], rows, *notes])

    def __str__(self) -> str:
        return self.words

    def save(self, path: Path | str) -> Path:
        """Write the table to a .parquet file, or everything to a folder; returns the path.

        The folder has matches.parquet (`matches`), shared.parquet (`verdicts`) and match.json.
        InputError where nothing can be written.
        """
        path = Path(path)
        if path.suffix == ".parquet":
            write_table(self.table, path)
            return path
        write_table(self.matches, path / "matches.parquet")
        write_table(self.verdicts, path / "shared.parquet")
        facts = ("names", "n_rows", "documents", "controls_used", "notes", "settings", "words")
        atomic.write_json(path / "match.json", {name: getattr(self, name) for name in facts})
        return path


def with_intervals(
    matches: pl.DataFrame, replicates: Mapping[tuple[str, str], np.ndarray]
) -> pl.DataFrame:
    """`matches` with r_lo and r_hi, which are null in the controls.

    replicates: of the rows of each (model, best_model) of the result, in their order.
    """
    rows = matches.with_row_index("_row")
    parts = [rows.select("_row", "r").clear().with_columns(r_lo=pl.col("r"), r_hi=pl.col("r"))]
    for (model, partner), r in replicates.items():
        here = rows.filter(comparison=MAIN.name, model=model, best_model=partner)
        lo, hi = _quantiles(r)
        parts.append(here.select("_row", "r").with_columns(r_lo=lo, r_hi=hi))
    intervals = pl.concat(parts).drop("r")
    return rows.join(intervals, on="_row", how="left", maintain_order="left").drop("_row")


def _quantiles(r: Float[np.ndarray, "rows replicates"]) -> tuple[pl.Series, pl.Series]:
    """Both ends, NaN where no replicate is defined; replicates that are not are left out."""
    ends = np.full((len(r), 2), np.nan, dtype=np.float32)
    missing = np.isnan(r).sum(axis=1)
    for rows, quantile in (
        (missing == 0, np.quantile),
        ((missing > 0) & (missing < r.shape[1]), np.nanquantile),  # by far slower
    ):
        if rows.any():
            ends[rows] = quantile(r[rows], INTERVAL, axis=1).T
    return pl.Series(ends[:, 0]), pl.Series(ends[:, 1])
