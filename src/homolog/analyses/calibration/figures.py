"""r by firing frequency, and what chance reaches."""

from __future__ import annotations

import math

import altair as alt

from homolog.analyses.calibration.rows import calibration
from homolog.analyses.records import PairRecords
from homolog.charts import theme
from homolog.charts.figure import Figure, Rows, finish, panels, r_axis, stroke_legend, tips
from homolog.charts.words import level, number
from homolog.record.comparisons import MAIN


def calibration_figure(records: PairRecords) -> Figure | None:
    """r by firing frequency, and the null of the maximum."""
    rows = calibration(records)
    if not rows:
        return None
    called = any(row.get("series") == "significant" for row in rows)
    rate = level(records.setting("fdr"))
    null: dict[str, list[float]] = {}
    for row in rows:
        if row.get("series") == "null":
            null.setdefault(row["panel"], []).append(row["r"])
    ends = "; ".join(
        f"{name}: {number(r[0])} for the rarest, {number(r[-1])} for the most frequent"
        for name, r in null.items()
    )
    dashed = f" From the dashed line on, a match is significant (false discovery rate {rate})."
    return Figure(
        "calibration",
        "Is it more than chance?",
        "Every column holds equally many features of similar firing frequency: the stronger the "
        "colour of a cell, the more of them correlate that highly with their best partner. The "
        "solid line is what chance reaches in one feature of twenty at that frequency: the best "
        "correlation when the two models read different documents." + (dashed if called else ""),
        "Heatmaps of best correlations by firing frequency, with the line that chance reaches. "
        f"It lies, {ends}.",
        finish(panels([_cells(rows), *_lines(rows, called)], rows, height=270), rows, axes=62),
    )


def _axes(rows: Rows) -> tuple[alt.X, alt.Y]:
    cells = [row for row in rows if row["part"] == "cell"]
    first, last = min(row["freq"] for row in cells), max(row["freq_end"] for row in cells)
    lowest, highest = math.ceil(math.log10(first) - 1e-9), math.floor(math.log10(last))
    ticks = [10.0**power for power in range(lowest, highest + 1)]
    title = "share of tokens on which the feature fires"
    powers = alt.Axis(values=ticks or [first, last], format=".2~%", grid=False)
    across = alt.Scale(type="log", domain=[first, last], nice=False)
    upward = alt.Scale(domain=[min(row["r"] for row in cells), 1], nice=False)
    x = alt.X("freq:Q", title=title, scale=across, axis=powers)
    return x, alt.Y("r:Q", scale=upward, axis=r_axis(grid=False))


def _cells(rows: Rows) -> alt.Chart:
    """Cells as dark as they are full."""
    x, y = _axes(rows)
    scale = alt.Scale(type="sqrt", domainMin=0, range=[0.04, 1])
    shade = alt.Opacity("share:Q", scale=scale, legend=None)
    tip = tips(
        ("share", "share of the column", ".1%"),
        ("n", "features in it", ","),
        ("freq", "frequency from", ".3~%"),
    )
    heat = alt.Chart().mark_rect(color=theme.comparison_colour(MAIN.name), stroke=None)
    cell = heat.transform_filter("datum.part == 'cell'")
    return cell.encode(x, alt.X2("freq_end:Q"), y, alt.Y2("r_end:Q"), shade, tooltip=tip)


def _lines(rows: Rows, called: bool) -> list[alt.Chart]:
    """The lines, with an edge in the colour of the background."""
    x, y = _axes(rows)
    domain = ["null", "significant"] if called else ["null"]
    words = "datum.label == 'null' ? 'what chance reaches (95%)' : 'significant from here'"
    legend = stroke_legend(None, 2, labelExpr=words, symbolStrokeColor=theme.WORSE[0])
    dashes = alt.Scale(domain=domain, range=[[1, 0], [5, 3]][: len(domain)])
    series = alt.StrokeDash("series:N", scale=dashes, legend=legend)
    lines = alt.Chart().transform_filter("datum.part == 'line'")
    edge = lines.mark_line(strokeWidth=5, color=theme.BACKGROUND[0], opacity=0.75, tooltip=False)
    line = lines.mark_line(strokeWidth=2.4, color=theme.WORSE[0])
    tip = tips(("series", "line", ""), ("r", "r", ".3f"), ("freq", "frequency", ".3~%"))
    return [edge.encode(x, y, alt.Detail("series:N")), line.encode(x, y, series, tooltip=tip)]
