"""Births, deaths and what is kept over depth; and how far weights agree with text."""

from __future__ import annotations

import altair as alt
import polars as pl

from homolog.analyses.flow.words import COMES, FIRST, GOES, LAST
from homolog.analyses.records import PairRecords
from homolog.charts import figure, theme
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import integer, number, percent
from homolog.record.comparisons import MAIN, NEURONS
from homolog.record.tables import BY_WEIGHTS, FLOW

SERIES = {"kept": "kept from the block before", "born": "born here", "dies": "die here"}


def flow_rows(records: PairRecords) -> figure.Rows:
    """Share of the features of each layer that are kept, born or dying, by relative depth.

    A row: series, depth, share, n (features that have an r there).
    """
    table, rows = records.table(FLOW), list[dict]()
    for side, model, _ in records.sides:
        n_layers = records.n_layers(model)
        for series, column, end in (
            (COMES[2], "comes", FIRST),
            (COMES[0], "comes", FIRST),
            (GOES[0], "goes", LAST),
        ):
            inner = table.filter(pl.col(column) != end, model=model)
            by_layer = inner.group_by("layer").agg(
                share=(pl.col(column) == series).mean(), n=pl.len()
            )
            rows += [
                {
                    "panel": records.panel(side),
                    "series": series,
                    "layer": row["layer"],
                    "depth": figure.rounded((row["layer"] + 1) / n_layers),
                    "share": figure.rounded(row["share"]),
                    "n": row["n"],
                    **records.layer_link(side, layer=row["layer"]),
                }
                for row in by_layer.sort("layer").iter_rows(named=True)
            ]
    return rows


def flow_figure(records: PairRecords) -> figure.Figure | None:
    """Births, deaths and what is kept over relative depth; None where no flow was measured."""
    rows = flow_rows(records)
    if not rows:
        return None
    said = "; ".join(
        f"{row['panel']}, block {row['layer']}: {percent(row['share'])}"
        for row in rows
        if row["series"] == "born"
    )
    chart = figure.panels(_layers(*figure.linked(rows)), rows, height=240)
    return figure.Figure(
        "flow",
        "Where are features born?",
        "Of the features of a block, the share that has no ancestor in the kept block before it "
        "(born), that is all but the same there (kept), and that has no descendant in the next "
        "(die). Features of the first kept block have no block to come from.",
        f"Lines of the share of features that are kept, born or dying over depth. Born: {said}.",
        figure.finish(chart, rows, axes=66),
    )


def _layers(mark: dict, link: dict) -> list[alt.Chart]:
    x = alt.X("depth:Q", title="depth of the feature", axis=figure.SHARE_AXIS, scale=figure.UNIT)
    y = alt.Y("share:Q", title="share of features", axis=figure.SHARE_AXIS, scale=figure.UNIT)
    names = list(SERIES)
    blue, orange = (theme.comparison_colour(comparison.name) for comparison in (MAIN, NEURONS))
    labels = ", ".join(f"{name}: '{words}'" for name, words in SERIES.items())
    legend = figure.stroke_legend(None, 3, labelExpr=f"{{{labels}}}[datum.label]")
    scale = alt.Scale(domain=names, range=[blue, orange, theme.MUTED[0]])
    dashes = alt.Scale(domain=names, range=[[1, 0], [6, 3], [2, 3]])
    colour = alt.Color("series:N", scale=scale, legend=legend)
    dash = alt.StrokeDash("series:N", scale=dashes, legend=legend)
    tip = figure.tips(
        ("series", "features", ""),
        ("layer", "block", ""),
        ("share", "share", ".0%"),
        ("n", "of", ","),
    )
    line = alt.Chart().mark_line(strokeWidth=2.4, tooltip=False).encode(x, y, colour, dash)
    point = alt.Chart().mark_point(size=55, filled=True, opacity=1, **mark)
    points = point.encode(
        x, y, alt.Color("series:N", scale=scale, legend=None), tooltip=tip, **link
    )
    return [line, points]


CAPTION = "Nearest by weights alone, beside what fires alike"
CELLS: Cells = {
    "Features of → looked for in": lambda row: f"{row['model']}\n→ {row['best_model']}",
    "Features": lambda row: integer(row["n"]),
    "Cosine, median": lambda row: number(row["cosine"]),
    "Above chance": lambda row: percent(row["above"]),
    "r on text, median": lambda row: number(row["r"]),
    "Also the best by r": lambda row: percent(row["agrees"]),
}


def weights_table(records: PairRecords) -> ShownTable | None:
    """How often the nearest by weights is the best by r, within each model and between both."""
    known = records.table(BY_WEIGHTS).filter(pl.col("best_feature") >= 0, pl.col("r").is_finite())
    if known.is_empty():
        return None
    rows = known.group_by("model", "best_model", maintain_order=True).agg(
        pl.col("cosine", "r").median(),
        pl.col("agrees").mean(),
        above=(pl.col("cosine") > pl.col("null_cosine")).mean(),
        n=pl.len(),
    )
    ordered = rows.sort(pl.col("model") != pl.col("best_model"), "model", maintain_order=True)
    return ShownTable.of(CAPTION, CELLS, ordered.iter_rows(named=True), numeric=range(1, 6))
