"""Are features that are well matched simpler?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl

from homolog.analyses.analysis import Analysis, interpreted, whole
from homolog.analyses.records import PairRecords, Row
from homolog.charts import figure
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import integer, number
from homolog.record.comparisons import comparison_of, in_order, with_role
from homolog.record.sides import side_words
from homolog.record.tables import CURVES, FEATURES, MATCHES, RATINGS, RELATION


@dataclass(frozen=True)
class MeasureWords:
    """A measure in words.  says: what an end of its range means."""

    title: str
    unit: str
    says: str


MEASURES: Mapping[str, MeasureWords] = {
    "token_entropy": MeasureWords(
        "Entropy of its tokens", "bits", "0: it fires on one token only; more: on many"
    ),
    "token_r2": MeasureWords(
        "Predicted by the token", "share of variance", "1: the current token alone decides"
    ),
    "context_tokens": MeasureWords(
        "Left context it needs", "tokens", "1: the token itself is enough"
    ),
    "consistency": MeasureWords(
        "Consistency of contexts", "-1 to 1", "0: as alike as random ones; 1: always more alike"
    ),
    "context_consistency": MeasureWords(
        "The same without the token", "-1 to 1", "what contexts share before the token"
    ),
    "complexity": MeasureWords("Complexity, rated", "1 to 5", "5: an abstract idea"),
    "consistency_rated": MeasureWords(
        "Consistency, rated", "1 to 5", "5: one pattern in every text"
    ),
    "detection": MeasureWords("Detection, rated", "0 to 1", "0.5: the explanation says nothing"),
}
RATED = ("complexity", "consistency_rated", "detection")
"""Those that a language model gives; the others are columns of the features."""

LEAST_IN_BIN = 10
ROLES = ("result", "baseline")
"""Of the comparisons that are drawn; the table has skylines, too."""


def relation_figure(records: PairRecords) -> figure.Figure | None:
    """Median of each measure over bins of r; None where the result has no curve."""
    curves = records.table(CURVES)
    if curves.is_empty():
        return None
    names = [name for name in in_order(curves["comparison"]) if comparison_of(name).role in ROLES]
    curves = curves.filter(
        pl.col("of") == "r", pl.col("comparison").is_in(names), pl.col("n") >= LEAST_IN_BIN
    )
    rows = [row for name in MEASURES for row in _panels_of(records, curves, name)]
    if not {*with_role("result")} & {*figure.seen(rows)}:
        return None
    shown = [name for name in names if name in figure.seen(rows)]
    spec = figure.finish(figure.panels(_layers(shown), rows, height=150), rows, axes=48, each=True)
    spec["resolve"] = {"scale": {"y": "independent"}}
    measured = curves["measure"].unique().to_list()
    says = [f"{words.title}: {words.says}." for name, words in MEASURES.items() if name in measured]
    return figure.Figure(
        "relation",
        "Are close matches simpler?",
        "Features in order of the correlation with their best partner, ten bins: the median of "
        f"each measure in a bin, with its 95% interval. {' '.join(says)}",
        f"Lines of the median of each measure over r. Rank correlations with r: {_said(records)}.",
        spec,
    )


def _panels_of(records: PairRecords, curves: pl.DataFrame, measure: str) -> figure.Rows:
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
            numbers = {name: figure.significant(row[name]) for name in ("median", "lo", "hi")}
            rows.append(about | numbers | {"n": row["n"]})
    return rows


def _layers(names: list[str]) -> list[Any]:
    """A line with its interval per comparison."""
    x = alt.X("r:Q", axis=figure.R_AXIS, scale=figure.UNIT)
    y = alt.Y("median:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    line_sample = {"symbolType": "stroke", "symbolOpacity": 1, "symbolStrokeWidth": 2.4}
    legend = alt.Legend(title=None, labelExpr=figure.comparison_labels(names), **line_sample)
    colour = alt.Color("comparison:N", scale=figure.comparison_scale(names), legend=legend)
    tip = figure.tips(
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


def values(records: PairRecords) -> Mapping[str, Any] | None:
    """What the template is filled with; None where nothing was related."""
    relation = records.table(RELATION)
    return None if relation.is_empty() else {"relation": relation_table(relation)}


def relation_table(relation: pl.DataFrame) -> ShownTable:
    """All comparisons of a pair, the rows of the result stressed."""
    rows = relation.sort("measure", "of", "model", maintain_order=True).to_dicts()
    results = [n for n, row in enumerate(rows) if row["comparison"] in with_role("result")]
    caption = "Rank correlation of each measure with how well a feature is matched"
    return ShownTable.of(caption, CELLS, rows, numeric=(4, 5, 6), strong=results)


def _with_interval(row: Row, value: str, lo: str, hi: str) -> str:
    return f"{number(row[value])}\n({number(row[lo])}, {number(row[hi])})"


CELLS: Cells = {
    "Measure": lambda row: (
        MEASURES[row["measure"]].title if row["measure"] in MEASURES else row["measure"]
    ),
    "Against": lambda row: "r" if row["of"] == "r" else "excess over the null",
    "Comparison": lambda row: comparison_of(row["comparison"]).plain,
    "Features of → looked for in": lambda row: (
        f"{row['model']}\n→ {side_words(row['best_model'], row['best_label'])}"
    ),
    "Features": lambda row: integer(row["n"]),
    "Spearman, 95% interval": lambda row: _with_interval(row, "rho", "lo", "hi"),
    "Frequency and layer held fixed": lambda row: _with_interval(
        row, "partial", "partial_lo", "partial_hi"
    ),
}
ANALYSIS = Analysis(
    name="relation",
    title="relate matches to meaning",
    tables=(RELATION, CURVES),
    reads=(MATCHES, FEATURES, RATINGS),
    wanted=interpreted(),
    units=whole,
    measure="homolog.analyses.relation.measure:measure_study",
    chapter="Meaning",
    figures=lambda records: [relation_figure(records)],
    values=values,
)
