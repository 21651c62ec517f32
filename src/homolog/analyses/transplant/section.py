"""How well mapped residuals are read, as a table of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homolog.analyses.records import PairRecords
from homolog.charts.shown_table import ShownTable
from homolog.charts.words import number
from homolog.record.tables import TRANSPLANT

_NUMBERS = {
    "r2": "R² of the residual",
    "ev_own": "Explained, own residuals",
    "ev_transplant": "Explained, mapped residuals",
    "feature_r_median": "r of features, median",
}


def values(records: PairRecords) -> Mapping[str, Any] | None:
    """What the template is filled with; None where nothing was transplanted."""
    table = records.table(TRANSPLANT)
    if table.is_empty():
        return None
    rows = [
        [
            f"{row['model']} {row['layer']}",
            f"{row['source_model']} {row['source_layer']}",
            row["map"],
            *(number(row[name], 3) for name in _NUMBERS),
        ]
        for row in table.iter_rows(named=True)
    ]
    shown = ShownTable(
        "Residuals of one model, mapped into the other's space and read by its dictionaries",
        ["Dictionary of block", "Residuals of block", "Map", *_NUMBERS.values()],
        rows,
        numeric=frozenset(range(3, 7)),
    )
    return {"transplant": shown}
