"""The rank correlations of every measure, as a table of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from homolog.analyses.records import PairRecords
from homolog.analyses.relation.measures import MEASURES
from homolog.charts.shown_table import ShownTable
from homolog.charts.words import integer, number
from homolog.record.comparisons import comparison_of, side_words
from homolog.record.tables import RELATION


def values(records: PairRecords) -> Mapping[str, Any] | None:
    """What the template is filled with; None where nothing was related."""
    relation = records.table(RELATION)
    return None if relation.is_empty() else {"relation": relation_table(relation)}


def relation_table(relation: pl.DataFrame) -> ShownTable:
    """All comparisons of a pair, the rows of the result stressed."""
    ordered = list(
        relation.sort("measure", "of", "model", maintain_order=True).iter_rows(named=True)
    )
    columns = [
        "Measure",
        "Against",
        "Comparison",
        "Features of → looked for in",
        "Features",
        "Spearman, 95% interval",
        "Frequency and layer held fixed",
    ]
    results = [n for n, row in enumerate(ordered) if _role(row) == "result"]
    return ShownTable(
        "Rank correlation of each measure with how well a feature is matched",
        columns,
        [_cells(row) for row in ordered],
        numeric=frozenset({4, 5, 6}),
        strong=frozenset(results),
    )


def _role(row: Mapping[str, Any]) -> str:
    return comparison_of(row["comparison"]).role


def _cells(row: Mapping[str, Any]) -> list[str]:
    measure = MEASURES.get(row["measure"])
    return [
        measure.title if measure else row["measure"],
        "r" if row["of"] == "r" else "excess over the null",
        comparison_of(row["comparison"]).plain,
        f"{row['model']}\n→ {side_words(row['best_model'], row['best_label'])}",
        integer(row["n"]),
        _with_interval(row, "rho", "lo", "hi"),
        _with_interval(row, "partial", "partial_lo", "partial_hi"),
    ]


def _with_interval(row: Mapping[str, Any], value: str, lo: str, hi: str) -> str:
    return f"{number(row[value])}\n({number(row[lo])}, {number(row[hi])})"
