"""Charts of the matches: every comparison at a glance, ridges and shares of the best correlations."""

from __future__ import annotations

from typing import Any

import altair as alt

from homolog.analyses.records import PairRecords
from homolog.charts import theme
from homolog.charts.figure import (
    R_AXIS,
    SHARE_AXIS,
    UNIT,
    Figure,
    axis_lookup,
    comparison_scale,
    expression_text,
    finish,
    panels,
    seen,
    stroke_legend,
    tips,
)
from homolog.charts.words import CLOSE, number, percent
from homolog.record.comparisons import comparison_of
from homolog.report import aggregate


def summary_figure(records: PairRecords) -> Figure | None:
    """Mean and median with their intervals: every comparison, both directions."""
    rows = aggregate.intervals(records)
    if not rows:
        return None
    names = seen(rows)
    order = [row["name"] for row in rows]
    y = alt.Y(
        "name:N",
        sort=list(dict.fromkeys(order)),
        title=None,
        axis=alt.Axis(labelExpr="split(datum.label, '|')", ticks=False, grid=True),
    )
    offset = alt.YOffset(
        "statistic:N", scale=alt.Scale(domain=["mean", "median"], paddingOuter=0.7)
    )
    colour = alt.Color("comparison:N", scale=comparison_scale(names), legend=None)
    shape = alt.Shape(
        "statistic:N",
        scale=alt.Scale(domain=["mean", "median"], range=["circle", "diamond"]),
        legend=alt.Legend(
            title=None, symbolFillColor=theme.MUTED[0], symbolStrokeColor=theme.MUTED[0]
        ),
    )
    tip = tips(
        ("comparison", "comparison", ""),
        ("statistic", "statistic", ""),
        ("value", "value", ".3f"),
        ("low", "low", ".3f"),
        ("high", "high", ".3f"),
    )
    x_axis = R_AXIS
    low = min([0.0, *(row["low"] for row in rows if row["low"] is not None)])
    scale = alt.Scale(domain=[low, 1])
    bars = (
        alt.Chart()
        .mark_rule(strokeWidth=5, opacity=0.45)
        .encode(
            alt.X("low:Q", axis=x_axis, scale=scale),
            alt.X2("high:Q"),
            y,
            offset,
            colour,
            tooltip=tip,
        )
    )
    points = (
        alt.Chart()
        .mark_point(size=58, opacity=1)
        .encode(alt.X("value:Q"), y, offset, colour, shape, tooltip=tip)
    )
    chart = panels([bars, points], rows, height=44 * len(set(order)))
    means = [row for row in rows if row["statistic"] == "mean"]
    text = "; ".join(
        f"{row['panel']}, {comparison_of(row['comparison']).plain}: {number(row['value'])}"
        for row in means
    )
    return Figure(
        "summary",
        "Every comparison at a glance",
        "Each dot is the mean and each diamond the median over all defined features, with its 95% "
        "interval; "
        "the other model should lie well right of both baselines and not right of the two skylines "
        "above it.",
        f"Dot plot of mean best correlations. {text}.",
        finish(chart, rows, axes=132),
    )


def distribution_figure(records: PairRecords) -> Figure | None:
    """The paper's first figure: the distribution of MPPC with all controls, for features."""
    return _ridge_figure(
        records,
        "sae",
        "distribution",
        "How close is the closest partner?",
        "Each ridge shows how the correlations of all features with their best partners are "
        "distributed "
        "(every ridge drawn to the same height, line at the median): the further right, the more "
        "is shared.",
    )


def neuron_figure(records: PairRecords) -> Figure | None:
    """The same for neurons, beside their random baseline."""
    return _ridge_figure(
        records,
        "neuron",
        "neurons",
        "Single neurons, for comparison",
        "The same for single neurons in place of dictionary features: where both ridges coincide, "
        "neurons "
        "share no more than chance gives them.",
    )


def _ridge_figure(
    records: PairRecords, kind: str, name: str, title: str, read: str
) -> Figure | None:
    rows = aggregate.ridges(records, kind)
    if not rows:
        return None
    places = records.comparisons(kind)[::-1]
    chart = panels(_ridge_layers(rows, places), rows, height=62 * len(places) + 12)
    medians = "; ".join(
        f"{row['panel']}, {row['name']}: {number(row['r'])}"
        for row in rows
        if row["part"] == "median"
    )
    return Figure(
        name,
        title,
        read,
        f"Ridges of the distribution of best correlations. Medians: {medians}.",
        finish(chart, rows, axes=132),
    )


def _ridge_layers(rows: list[dict[str, Any]], places: list[str]) -> list[alt.Chart]:
    """Ridges, a line at the median of each, and its value.  `places`: comparisons from the bottom
    up.
    """
    low = min(row["r"] for row in rows)
    x = alt.X("r:Q", axis=R_AXIS, scale=alt.Scale(domain=[min(0.0, round(low - 0.05, 1)), 1]))
    axis = alt.Axis(
        values=list(range(len(places))),
        labelExpr=axis_lookup([comparison_of(item).label for item in places]),
        grid=True,
        ticks=False,
        labelBaseline="middle",
        labelOffset=-14,
        labelLineHeight=14,
    )
    y = alt.Y("base:Q", title=None, scale=alt.Scale(domain=[0, len(places)], nice=False), axis=axis)
    colour = alt.Color("comparison:N", scale=comparison_scale(places[::-1]), legend=None)
    tip = tips(("name", "comparison", ""), ("r", "median", ".3f"), ("n", "features", ","))
    area = alt.Chart().mark_area(
        interpolate="monotone", fillOpacity=0.62, line={"strokeWidth": 1.6}, tooltip=False
    )
    line = alt.Chart().mark_rule(strokeWidth=2, color=theme.INK[0])
    value = alt.Chart().mark_text(dy=9, baseline="middle")
    ridge, median = "datum.part == 'ridge'", "datum.part == 'median'"
    return [
        area.transform_filter(ridge).encode(x, y, alt.Y2("top:Q"), colour),
        line.transform_filter(median).encode(x, y, alt.Y2("top:Q"), tooltip=tip),
        value.transform_filter(median).encode(x, y, text=alt.Text("r:Q", format=".2f")),
    ]


def share_figure(records: PairRecords) -> Figure | None:
    """Share of features with a partner at least as close as r."""
    rows = aggregate.share_curves(records, "sae")
    if not rows:
        return None
    names = seen(rows)
    labels = " : ".join(
        [
            *(
                f"datum.label == '{expression_text(name)}' ? "
                f"'{expression_text(comparison_of(name).plain)}'"
                for name in names
            ),
            "datum.label",
        ]
    )
    legend = stroke_legend(None, 3, labelExpr=labels)
    colour = alt.Color("comparison:N", scale=comparison_scale(names), legend=legend)
    dashes = {"skyline": [6, 3], "baseline": [2, 2.5]}
    dash = alt.StrokeDash(
        "comparison:N",
        legend=legend,
        scale=alt.Scale(
            domain=names, range=[dashes.get(comparison_of(name).role, [1, 0]) for name in names]
        ),
    )
    x = alt.X(
        "r:Q",
        title="correlation of the best partner, at least",
        axis=alt.Axis(format=".1f", tickCount=6),
    )
    lines = (
        alt.Chart()
        .mark_line(strokeWidth=2.4, interpolate="monotone")
        .encode(
            x,
            alt.Y(
                "share:Q",
                title="share of features",
                axis=SHARE_AXIS,
                scale=UNIT,
            ),
            colour,
            dash,
            tooltip=tips(("name", "comparison", ""), ("r", "r", ".2f"), ("share", "share", ".1%")),
        )
    )
    close = alt.Chart().mark_rule(strokeDash=[4, 4], opacity=0.8).encode(x=alt.datum(CLOSE))
    chart = panels([close, lines], rows, height=250)
    at = "; ".join(
        f"{row['panel']}, {row['name']}: {percent(row['share'])}"
        for row in rows
        if row["r"] == CLOSE
    )
    return Figure(
        "shares",
        "How many features have a partner that close?",
        "Read the share of features whose best partner correlates at least as highly as the value "
        "below; "
        f"the dashed rule at {CLOSE} is what this page calls close.",
        f"Curves of the share of features with a partner at least so close. At {CLOSE}: {at}.",
        finish(chart, rows, axes=62),
    )
