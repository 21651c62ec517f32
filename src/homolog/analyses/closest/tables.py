"""The features with the highest r, of those that are homologs."""

from __future__ import annotations

import polars as pl

from homolog.analyses.records import PairRecords, Row
from homolog.analyses.rows import feature_links
from homolog.charts.shown_table import ShownTable
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
    marks = ["r", "Excess", "q", "Active", "Mutual", "One-to-one", "Stable"]
    return ShownTable(
        f"Features of {model}",
        [model, partner, *marks],
        [_cells(row) for row in own.iter_rows(named=True)],
        frozenset(range(2, 6)),
        links=feature_links(records, side, own),
    )


def _cells(row: Row) -> list[str]:
    best = (row["best_layer"], row["best_feature"])
    return [
        f"{row['layer']} / {row['feature']}",
        f"{best[0]} / {best[1]}",
        number(row["r"], 3),
        number(row["excess"], 3),
        chance(row["q"]),
        f"{100 * row['freq']:.2f}%",
        _yes(row["mutual"]),
        _yes((row["partner_layer"], row["partner_feature"]) == best),
        _yes(row["stable"]),
    ]


def _yes(holds: bool | None) -> str:
    return MISSING if holds is None else "yes" if holds else "no"
