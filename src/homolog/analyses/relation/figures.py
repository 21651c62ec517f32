"""The median of every measure over bins of r."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from homolog.analyses.records import PairRecords
from homolog.analyses.relation.measures import MEASURES
from homolog.charts.figure import (
    R_AXIS,
    UNIT,
    Figure,
    Rows,
    comparison_labels,
    comparison_scale,
    finish,
    panels,
    seen,
    significant,
    tips,
)
from homolog.charts.words import number
from homolog.record.comparisons import comparison_of, in_order, with_role
from homolog.record.tables import CURVES, RELATION

LEAST_IN_BIN = 10
ROLES = ("result", "baseline")
"""Of the comparisons that are drawn; the table has skylines, too."""


def figures(records: PairRecords) -> list[Figure | None]:
    """Its chart."""
    return [relation_figure(records)]


def relation_figure(records: PairRecords) -> Figure | None:
    """Median of each measure over bins of r; None where the result has no curve."""
    curves = records.table(CURVES)
    if curves.is_empty():
        return None
    names = [name for name in in_order(curves["comparison"]) if comparison_of(name).role in ROLES]
    curves = curves.filter(
        pl.col("of") == "r", pl.col("comparison").is_in(names), pl.col("n") >= LEAST_IN_BIN
    )
    rows = [row for name in MEASURES for row in _panels_of(records, curves, name)]
    if not {*with_role("result")} & {*seen(rows)}:
        return None
    shown = [name for name in names if name in seen(rows)]
    spec = finish(panels(_layers(shown), rows, height=150), rows, axes=48, each=True)
    spec["resolve"] = {"scale": {"y": "independent"}}
    measured = curves["measure"].unique().to_list()
    says = [f"{words.title}: {words.says}." for name, words in MEASURES.items() if name in measured]
    return Figure(
        "relation",
        "Are close matches simpler?",
        "Features in order of the correlation with their best partner, ten bins: the median of "
        f"each measure in a bin, with its 95% interval. {' '.join(says)}",
        f"Lines of the median of each measure over r. Rank correlations with r: {_said(records)}.",
        spec,
    )


def _panels_of(records: PairRecords, curves: pl.DataFrame, measure: str) -> Rows:
    """The points of a measure, of both models."""
    words, rows = MEASURES[measure], []
    for side in "AB":
        panel = f"{words.title} ({words.unit})|{records.model_of(side)}"
        own = curves.filter(measure=measure, side=side).sort("comparison", "bin")
        for row in own.iter_rows(named=True):
            about = {
                "panel": panel,
                "comparison": row["comparison"],
                "name": comparison_of(row["comparison"]).plain,
                "r": (row["start"] + row["end"]) / 2,
            }
            numbers = {name: significant(row[name]) for name in ("median", "lo", "hi")}
            rows.append(about | numbers | {"n": row["n"]})
    return rows


def _layers(names: list[str]) -> list[Any]:
    """A line with its interval per comparison."""
    x = alt.X("r:Q", axis=R_AXIS, scale=UNIT)
    y = alt.Y("median:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    line_sample = {"symbolType": "stroke", "symbolOpacity": 1, "symbolStrokeWidth": 2.4}
    legend = alt.Legend(title=None, labelExpr=comparison_labels(names), **line_sample)
    colour = alt.Color("comparison:N", scale=comparison_scale(names), legend=legend)
    tip = tips(
        ("name", "looked for in", ""),
        ("r", "r about", ".2f"),
        ("median", "median", ".3g"),
        ("n", "features", ","),
    )
    interval = alt.Y("lo:Q", title=None), alt.Y2("hi:Q")
    band = alt.Chart().mark_area(opacity=0.18, tooltip=False).encode(x, *interval, colour)
    line = alt.Chart().mark_line(strokeWidth=2.2, point={"size": 32})
    return [band, line.encode(x, y, colour, tooltip=tip)]


def _said(records: PairRecords) -> str:
    """The rank correlations of the result, for those who cannot see the lines."""
    relation = records.table(RELATION)
    result = relation.filter(
        pl.col("comparison").is_in(with_role("result")),
        pl.col("of") == "r",
        pl.col("measure").is_in(list(MEASURES)),
    )
    return "; ".join(
        f"{MEASURES[row['measure']].title}, {row['model']}: {number(row['rho'])}"
        for row in result.iter_rows(named=True)
    )
