"""The exclusive features of both models, as tables of the page; the best shared have their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from homolog.analyses.records import PairRecords
from homolog.analyses.rows import feature_links
from homolog.charts.shown_table import ShownTable
from homolog.charts.words import number
from homolog.record.tables import LISTS

LISTED = 12


def values(records: PairRecords) -> Mapping[str, Any] | None:
    """What the template is filled with; None where nothing was listed."""
    lists = records.table(LISTS)
    if lists.is_empty():
        return None
    return {"lists": [exclusive_table(records, lists, side) for side in "AB"]}


def exclusive_table(records: PairRecords, lists: pl.DataFrame, side: str) -> ShownTable:
    """The exclusive features of a side that are least like any of the other."""
    model, partner = records.model_of(side), records.partner_of(side)
    own = lists.filter(list="exclusive", model=model, best_model=partner).sort("rank").head(LISTED)
    columns = [
        "Block / feature",
        "Active",
        "r",
        "Best partner",
        f"R² from all of {partner}",
        "r in another seed",
    ]
    return ShownTable(
        f"Frequent features of {model} without a homolog in {partner}",
        columns,
        [_cells(row) for row in own.iter_rows(named=True)],
        numeric=frozenset({1, 2, 4, 5}),
        links=feature_links(records, side, own),
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        f"{row['layer']} / {row['feature']}",
        f"{100 * row['freq']:.2f}%",
        number(row["r"], 3),
        f"{row['best_layer']} / {row['best_feature']}",
        number(row["exclusive_r2"], 3),
        number(row["own_seed_r"], 3),
    ]
