"""Which features are the closest homologs?  Those of the highest r."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from homolog.analyses.analysis import Analysis
from homolog.analyses.records import PairRecords, Row
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import MISSING, chance, number
from homolog.record.comparisons import MAIN

SHOWN_ROWS = 12
ENOUGH_TOKENS = 30
"""A feature active at fewer tokens can correlate perfectly by chance."""


def closest(records: PairRecords, side: str) -> ShownTable:
    """The closest homologs of a side; the closest matches where none was classified."""
    enough = pl.col("r").is_finite() & (pl.col("n_active") >= ENOUGH_TOKENS)
    own = records.matches.filter(enough, comparison=MAIN.name, side=side)
    if own.get_column("homolog").is_not_null().any():
        own = own.filter("homolog")
    own = own.sort(["r", "layer", "feature"], descending=[True, False, False]).head(SHOWN_ROWS)
    model, partner = records.model_of(side), records.partner_of(side)
    cells: Cells = {
        "own": lambda row: f"{row['layer']} / {row['feature']}",
        "partner": lambda row: f"{row['best_layer']} / {row['best_feature']}",
        "r": lambda row: number(row["r"], 3),
        "Excess": lambda row: number(row["excess"], 3),
        "q": lambda row: chance(row["q"]),
        "Active": lambda row: f"{100 * row['freq']:.2f}%",
        "Mutual": lambda row: _yes(row["mutual"]),
        "One-to-one": lambda row: _yes(_place(row, "partner") == _place(row, "best")),
        "Stable": lambda row: _yes(row["stable"]),
    }
    rows, links = own.iter_rows(named=True), records.feature_links(side, own)
    table = ShownTable.of(f"Features of {model}", cells, rows, numeric=range(2, 6), links=links)
    return replace(table, columns=[model, partner, *table.columns[2:]])  # a model may be named "r"


def _place(row: Row, which: str) -> tuple[int, int]:
    return row[f"{which}_layer"], row[f"{which}_feature"]


def _yes(holds: bool | None) -> str:
    return MISSING if holds is None else "yes" if holds else "no"


def _values(records: PairRecords) -> Mapping[str, Any]:
    return {"tables": [closest(records, side) for side in "AB"], "enough": ENOUGH_TOKENS}


ANALYSIS = Analysis(
    "closest",
    chapter="The closest homologs",
    asks="Which features are most alike?",
    values=_values,
)
