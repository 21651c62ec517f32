"""Do the words for a feature tell its partner's texts too?  Detection on both, and on another's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from homolog.analyses.records import PairRecords
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import MISSING, number
from homolog.record.comparisons import MAIN
from homolog.record.tables import RATINGS
from homolog.record.tables.describing import MATCH_KEY

TESTS = {
    "Its own texts": "detection",
    "Its partner\u2019s": "partner_detection",
    "Another feature\u2019s": "other_detection",
}


def section_values(records: PairRecords) -> Mapping[str, Any] | None:
    """None where no explanation was tested on a partner of the other model."""
    main = records.matches.filter(comparison=MAIN.name).select(*MATCH_KEY, "homolog")
    rated = records.table(RATINGS).filter(pl.col("partner_detection").is_not_null())
    rows = rated.join(main, on=MATCH_KEY, how="inner")
    if not len(rows):
        return None
    groups = [
        {"of": f"{model}: {words}", "rows": part}
        for model in records.pair
        for words, homolog in (("homologs", True), ("others", False))
        if len(part := rows.filter(pl.col("homolog").fill_null(False) == homolog, model=model))
    ]
    cells: Cells = {
        "Features of": lambda group: group["of"],
        "Rated": lambda group: str(len(group["rows"])),
        **{title: _mean(column) for title, column in TESTS.items()},
    }
    caption = "Detection by the words for a feature: 0.5 is chance, 1 is every text"
    return {"told": ShownTable.of(caption, cells, groups, numeric=(1, 2, 3, 4))}


def _mean(column: str) -> Any:
    """Mean over features, with its 95 % interval."""

    def said(group: Mapping[str, Any]) -> str:
        values = group["rows"][column].drop_nulls().cast(pl.Float64)
        if not len(values):
            return MISSING
        mean, deviation = values.mean(), values.std()
        assert isinstance(mean, float)
        if not isinstance(deviation, float):  # of one feature
            return number(mean)
        half = 1.96 * deviation / len(values) ** 0.5
        low, high = max(0.0, mean - half), min(1.0, mean + half)
        return f"{number(mean)} ({number(low)} to {number(high)})"

    return said
