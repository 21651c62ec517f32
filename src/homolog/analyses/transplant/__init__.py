"""Can one model's residual stream stand in for the other's?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homolog.analyses.analysis import Analysis, each_direction, interpreted, one_document
from homolog.analyses.records import PairRecords
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import number
from homolog.record.tables import LAYERS, TRANSPLANT

CAPTION = "Residuals of one model, mapped into the other's space and read by its dictionaries"
CELLS: Cells = {
    "Dictionary of block": lambda row: f"{row['model']} {row['layer']}",
    "Residuals of block": lambda row: f"{row['source_model']} {row['source_layer']}",
    "Map": lambda row: row["map"],
    "R² of the residual": lambda row: number(row["r2"], 3),
    "Explained, own residuals": lambda row: number(row["ev_own"], 3),
    "Explained, mapped residuals": lambda row: number(row["ev_transplant"], 3),
    "r of features, median": lambda row: number(row["feature_r_median"], 3),
}


def values(records: PairRecords) -> Mapping[str, Any] | None:
    """What the template is filled with; None where nothing was transplanted."""
    table = records.table(TRANSPLANT)
    if table.is_empty():
        return None
    rows = table.iter_rows(named=True)
    return {"transplant": ShownTable.of(CAPTION, CELLS, rows, numeric=range(3, 7))}


ANALYSIS = Analysis(
    name="transplant",
    title="transplant residuals",
    tables=(TRANSPLANT,),
    reads=(LAYERS,),
    wanted=interpreted("transplant"),
    left_out=one_document(
        "quality",
        "residuals are not transplanted: a map is fitted on some documents and tested on others, "
        "and corpus.quality_tokens hold one",
    ),
    units=each_direction,
    measure="homolog.analyses.transplant.measure:measure_pair",
    seconds=lambda work: 2 * work.mapped(),
    chapter="Transplants",
    asks="Can one model go on from what the other has computed?",
    values=values,
)
