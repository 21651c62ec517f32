"""Charts of the calibration: r against chance, what the matches pass, what their r varies with."""

from __future__ import annotations

import math
from typing import Any

import altair as alt

from homolog.analyses.records import PairRecords, StudyRecords
from homolog.charts import theme
from homolog.charts.figure import (
    SHARE_AXIS,
    UNIT,
    Figure,
    comparison_scale,
    finish,
    panels,
    seen,
    stroke_legend,
    tips,
)
from homolog.charts.words import level, listed, number, percent
from homolog.record.comparisons import comparison_of
from homolog.report import calibration_rows
from homolog.report.aggregate import Rows


def calibration_figure(records: PairRecords) -> Figure | None:
    """r by firing frequency, and the null of the maximum."""
    rows = calibration_rows.calibration(records)
    if not rows:
        return None
    called, rate = (
        any(row.get("series") == "significant" for row in rows),
        level(records.setting("fdr")),
    )
    ends = "; ".join(
        f"{name}: {number(found[0]['r'])} for the rarest, {number(found[-1]['r'])} for the most "
        "frequent"
        for name in dict.fromkeys(row["panel"] for row in rows)
        if (found := [row for row in rows if row["panel"] == name and row.get("series") == "null"])
    )
    return Figure(
        "calibration",
        "Is it more than chance?",
        "Every column holds equally many features of similar firing frequency: the stronger the "
        "colour of a cell, the "
        "more of them correlate that highly with their best partner. The solid line is what "
        "chance reaches in one "
        "feature of twenty at that frequency: the best correlation when the two models read "
        "different documents."
        + (
            f" From the dashed line on, a match is significant (false discovery rate {rate})."
            if called
            else ""
        ),
        "Heatmaps of best correlations by firing frequency, with the line that chance reaches. "
        f"It lies, {ends}.",
        finish(panels(_calibration_layers(rows, called), rows, height=270), rows, axes=62),
    )


def _calibration_layers(rows: Rows, called: bool) -> list[alt.Chart]:
    """Cells as dark as they are full, and over them the lines with an edge in the colour of the
    background.
    """
    cells = [row for row in rows if row["part"] == "cell"]
    first, last = min(row["freq"] for row in cells), max(row["freq_end"] for row in cells)
    ticks = [
        10.0**power
        for power in range(math.ceil(math.log10(first) - 1e-9), math.floor(math.log10(last)) + 1)
    ]
    x = alt.X(
        "freq:Q",
        title="share of tokens on which the feature fires",
        scale=alt.Scale(type="log", domain=[first, last], nice=False),
        axis=alt.Axis(values=ticks or [first, last], format=".2~%", grid=False),
    )
    y = alt.Y(
        "r:Q",
        title="correlation of the best partner",
        scale=alt.Scale(domain=[min(row["r"] for row in cells), 1], nice=False),
        axis=alt.Axis(format=".1f", tickCount=6, grid=False),
    )
    shade = alt.Opacity(
        "share:Q", scale=alt.Scale(type="sqrt", domainMin=0, range=[0.04, 1]), legend=None
    )
    tip = tips(
        ("share", "share of the column", ".1%"),
        ("n", "features in it", ","),
        ("freq", "frequency from", ".3~%"),
    )
    heat = alt.Chart().mark_rect(color=theme.comparison_colour("main"), stroke=None)
    cell = heat.transform_filter("datum.part == 'cell'")
    domain = ["null", "significant"] if called else ["null"]
    words = "datum.label == 'null' ? 'what chance reaches (95%)' : 'significant from here'"
    legend = stroke_legend(None, 2, labelExpr=words, symbolStrokeColor=theme.WORSE[0])
    dashes = alt.Scale(domain=domain, range=[[1, 0], [5, 3]][: len(domain)])
    series = alt.StrokeDash("series:N", scale=dashes, legend=legend)
    lines = alt.Chart().transform_filter("datum.part == 'line'")
    edge = lines.mark_line(strokeWidth=5, color=theme.BACKGROUND[0], opacity=0.75, tooltip=False)
    line = lines.mark_line(strokeWidth=2.4, color=theme.WORSE[0])
    line_tip = tips(("series", "line", ""), ("r", "r", ".3f"), ("freq", "frequency", ".3~%"))
    return [
        cell.encode(x, alt.X2("freq_end:Q"), y, alt.Y2("r_end:Q"), shade, tooltip=tip),
        edge.encode(x, y, alt.Detail("series:N")),
        line.encode(x, y, series, tooltip=line_tip),
    ]


def criteria_figure(records: PairRecords) -> Figure | None:
    """How many features pass each test: the result beside its skylines."""
    rows = calibration_rows.criteria(records)
    if not any(row["comparison"] == "main" for row in rows):
        return None
    names = seen(sorted(rows, key=lambda row: records.comparisons("sae").index(row["comparison"])))
    titles = list(dict.fromkeys(row["title"] for row in rows))
    y = alt.Y(
        "title:N", sort=titles, title=None, axis=alt.Axis(ticks=False, grid=False, labelLimit=170)
    )
    offset = alt.YOffset(
        "comparison:N",
        sort=names,
        scale=alt.Scale(domain=names, paddingInner=0.15, paddingOuter=0.3),
    )
    labels = " : ".join(
        [*(f"datum.label == '{n}' ? '{comparison_of(n).plain}'" for n in names), "datum.label"]
    )
    colour = alt.Color(
        "comparison:N",
        scale=comparison_scale(names),
        legend=alt.Legend(title=None, columns=3, labelExpr=labels),
    )
    x = alt.X("share:Q", title="share of the alive features", axis=SHARE_AXIS, scale=UNIT)
    tip = tips(
        ("name", "comparison", ""),
        ("title", "test", ""),
        ("share", "share", ".1%"),
        ("n", "alive features", ","),
    )
    bars = alt.Chart().mark_bar(cornerRadiusEnd=2).encode(x, y, offset, colour, tooltip=tip)
    text = alt.Chart().mark_text(align="left", dx=4, fontSize=10.5, tooltip=False)
    values = text.encode(x, y, offset, text=alt.Text("share:Q", format=".0%"))
    main = "; ".join(
        f"{row['panel']}, {row['title']}: {percent(row['share'])}"
        for row in rows
        if row["comparison"] == "main"
    )
    return Figure(
        "criteria",
        "What do the matches pass?",
        "Of the features that fire at all, how many pass each test, and what the skylines reach "
        "in the first two. A "
        "homolog is mutual when each of the two is the best partner of the other, one to one when "
        "no feature is given "
        "to two, and stable when the partner comes back in second dictionaries of its model.",
        f"Bars of the share of features that pass each test. {main}.",
        finish(
            panels([bars, values], rows, height=max(120, len(titles) * (16 + 15 * len(names)))),
            rows,
            axes=150,
        ),
    )


def variance_figure(records: StudyRecords) -> Figure | None:
    """What the best correlations vary with."""
    rows = calibration_rows.variance(records)
    if not rows:
        return None
    order = list(dict.fromkeys(row["factor"] for row in rows))
    models = list(dict.fromkeys(row["panel"] for row in rows))
    y = alt.Y("factor:N", sort=order, title=None, axis=alt.Axis(ticks=False, grid=False))
    x = alt.X(
        "share:Q",
        title="share of the variance",
        axis=SHARE_AXIS,
        scale=alt.Scale(domain=[_floor(rows), 1]),
    )
    tip = tips(("factor", "factor", ""), ("share", "share", ".1%"), ("n", "values", ","))
    bars = alt.Chart().mark_bar(
        color=theme.comparison_colour("main"), height={"band": 0.62}, cornerRadiusEnd=2
    )
    text = alt.Chart().mark_text(align="left", dx=5, tooltip=False)
    layers = [
        bars.encode(x, y, tooltip=tip),
        text.encode(x, y, text=alt.Text("share:Q", format=".0%")),
    ]
    return Figure(
        "variance",
        "What does the correlation vary with?",
        "Each feature was looked for in several sets of dictionaries: of the other models, of the "
        "same architecture "
        "trained from another seed, and from other SAE seeds. The bars split the differences "
        "between all these best "
        "correlations into what goes with each factor, the rest being the residual. "
        f"{variance_sentence(records)}",
        f"Bars of the shares of variance. {variance_sentence(records)}",
        finish(
            panels(layers, rows, height=30 * len(order)), rows, axes=96 if len(models) > 1 else 110
        ),
    )


def variance_sentence(records: StudyRecords) -> str:
    """For each model its largest factors, in words."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in calibration_rows.variance(records):
        rows.setdefault(row["model"], []).append(row)
    said = []
    for model, found in rows.items():
        parts = [
            f"{percent(row['share'])} with "
            f"{calibration_rows.FACTORS.get(row['factor'], row['factor'])}"
            for row in sorted(found, key=lambda row: -row["share"])
            if row["factor"] != "residual"
        ]
        said.append(f"Of {model}\u2019s features: {listed(parts[:3])}.")
    return " ".join(said)


def _floor(rows: Rows) -> float:
    """Estimated components can lie a little below 0; the axis then shows it."""
    return min(0.0, *(row["share"] for row in rows)) if rows else 0.0
