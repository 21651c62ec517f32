"""Which features does only one of two models have, and are they really alone?

The lists name the best shared and the exclusive features; the exclusive ones are regressed on all
features of the other model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from homolog.analyses.analysis import Analysis, each_direction_with_homologs, interpreted
from homolog.analyses.records import PairRecords
from homolog.analyses.work import Work
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import number
from homolog.record.tables import LISTS, MATCHES, SAES

LISTED = 12
REGRESSED = 50e-9  # seconds an activation of the other model, in each regression


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
    cells: Cells = {
        "Block / feature": lambda row: f"{row['layer']} / {row['feature']}",
        "Active": lambda row: f"{100 * row['freq']:.2f}%",
        "r": lambda row: number(row["r"], 3),
        "Best partner": lambda row: f"{row['best_layer']} / {row['best_feature']}",
        f"R² from all of {partner}": lambda row: number(row["exclusive_r2"], 3),
        "r in another seed": lambda row: number(row["own_seed_r"], 3),
    }
    caption = f"Frequent features of {model} without a homolog in {partner}"
    rows, links = own.iter_rows(named=True), records.feature_links(side, own)
    return ShownTable.of(caption, cells, rows, numeric=(1, 2, 4, 5), links=links)


def _seconds(work: Work) -> float:
    regressions = 2 * work.partners * work.asked.listed
    return regressions * work.activations * work.shared * REGRESSED


ANALYSIS = Analysis(
    name="exclusive",
    title="regress exclusive features",
    tables=(LISTS,),
    reads=(MATCHES, SAES),
    wanted=interpreted("listed"),
    units=each_direction_with_homologs,
    measure="homolog.analyses.exclusive.regression:measure_pair",
    seconds=_seconds,
    chapter="Exclusive features",
    asks="What fires without a homolog, and does the whole other model have it?",
    values=values,
)
