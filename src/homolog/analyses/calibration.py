"""Is it more than chance?  r of the main comparison by firing frequency, beside its null."""

from __future__ import annotations

import math

import altair as alt
import numpy as np
import polars as pl

from homolog.analyses.analysis import Analysis
from homolog.analyses.records import PairRecords
from homolog.charts import figure, theme
from homolog.charts.words import level, number
from homolog.record.comparisons import MAIN

COLUMN_FEATURES = 100  # features of a column of the heatmap, at least
COLUMNS = 40  # at most
CELL = 0.04  # of r
LINE_POINTS = 60
LINES = {"null": "null_r", "significant": "threshold"}
"""Lines over the heatmap, and their columns in `matches`."""


def calibration(records: PairRecords) -> figure.Rows:
    """Cells and lines of both directions.

    Features in order of frequency are cut into columns of equally many (more where frequencies are
    equal).  Part "cell": freq, freq_end, r, r_end and share, of the column's features; part "line":
    freq and r of some features from rare to frequent, with `series`, of `LINES`.
    """
    rows: figure.Rows = []
    for side in "AB":
        known = (pl.col("freq") > 0) & pl.col("r").is_finite() & pl.col("null_r").is_finite()
        main = records.matches.filter(known, comparison=MAIN.name, side=side)
        if not main.is_empty():
            main = main.sort("freq", "layer", "feature")
            rows += [{"panel": records.panel(side), **row} for row in _cells(main) + _lines(main)]
    return rows


def _cells(main: pl.DataFrame) -> figure.Rows:
    """Cells of one panel; the rows in order of frequency."""
    freq, r = (main.get_column(name).cast(pl.Float64).to_numpy() for name in ("freq", "r"))
    n_columns = max(1, min(COLUMNS, len(freq) // COLUMN_FEATURES))
    first = [freq[len(freq) * i // n_columns] for i in range(n_columns)]
    starts = np.unique(np.searchsorted(freq, first)).tolist()
    low = np.floor(min(0.0, float(r.min())) / CELL)
    edges = np.round(np.arange(low, np.ceil(1 / CELL) + 1) * CELL, 4)
    rows: figure.Rows = []
    for start, end in zip(starts, [*starts[1:], len(freq)], strict=True):
        left, right = float(freq[start]), float(freq[min(end, len(freq) - 1)])
        right = right if right > left else left * 1.1  # a column of one frequency has a width, too
        counts = np.histogram(np.clip(r[start:end], edges[0], edges[-1]), edges)[0]
        rows += [
            {
                "part": "cell",
                "freq": figure.significant(left),
                "freq_end": figure.significant(right),
                "n": end - start,
                "r": float(edges[i]),
                "r_end": float(edges[i + 1]),
                "share": figure.rounded(counts[i] / (end - start)),
            }
            for i in np.flatnonzero(counts)
        ]
    return rows


def _lines(main: pl.DataFrame) -> figure.Rows:
    """Points of the lines at features whose frequencies are evenly spaced on a log scale."""
    freq = main.get_column("freq").to_numpy()
    near = np.searchsorted(freq, np.geomspace(freq[0], freq[-1], LINE_POINTS) * (1 - 1e-9))
    some = main[np.unique(near.clip(max=len(freq) - 1)).tolist()]
    return [
        {
            "part": "line",
            "series": series,
            "freq": figure.significant(at),
            "r": figure.rounded(value),
        }
        for series, column in LINES.items()
        for at, value in some.filter(pl.col(column) <= 1).select("freq", column).iter_rows()
    ]


def calibration_figure(records: PairRecords) -> figure.Figure | None:
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
    return figure.Figure(
        "calibration",
        "Is it more than chance?",
        "Every column holds equally many features of similar firing frequency: the stronger the "
        "colour of a cell, the more of them correlate that highly with their best partner. The "
        "solid line is what chance reaches in one feature of twenty at that frequency: the best "
        "correlation when the two models read different documents." + (dashed if called else ""),
        "Heatmaps of best correlations by firing frequency, with the line that chance reaches. "
        f"It lies, {ends}.",
        figure.finish(
            figure.panels([_drawn_cells(rows), *_drawn_lines(rows, called)], rows, height=270),
            rows,
            axes=62,
        ),
    )


def _axes(rows: figure.Rows) -> tuple[alt.X, alt.Y]:
    cells = [row for row in rows if row["part"] == "cell"]
    first, last = min(row["freq"] for row in cells), max(row["freq_end"] for row in cells)
    lowest, highest = math.ceil(math.log10(first) - 1e-9), math.floor(math.log10(last))
    ticks = [10.0**power for power in range(lowest, highest + 1)]
    title = "share of tokens on which the feature fires"
    powers = alt.Axis(values=ticks or [first, last], format=".2~%", grid=False)
    across = alt.Scale(type="log", domain=[first, last], nice=False)
    upward = alt.Scale(domain=[min(row["r"] for row in cells), 1], nice=False)
    x = alt.X("freq:Q", title=title, scale=across, axis=powers)
    return x, alt.Y("r:Q", scale=upward, axis=figure.r_axis(grid=False))


def _drawn_cells(rows: figure.Rows) -> alt.Chart:
    """Cells as dark as they are full."""
    x, y = _axes(rows)
    scale = alt.Scale(type="sqrt", domainMin=0, range=[0.04, 1])
    shade = alt.Opacity("share:Q", scale=scale, legend=None)
    tip = figure.tips(
        ("share", "share of the column", ".1%"),
        ("n", "features in it", ","),
        ("freq", "frequency from", ".3~%"),
    )
    heat = alt.Chart().mark_rect(color=theme.comparison_colour(MAIN.name), stroke=None)
    cell = heat.transform_filter("datum.part == 'cell'")
    return cell.encode(x, alt.X2("freq_end:Q"), y, alt.Y2("r_end:Q"), shade, tooltip=tip)


def _drawn_lines(rows: figure.Rows, called: bool) -> list[alt.Chart]:
    """The lines, with an edge in the colour of the background."""
    x, y = _axes(rows)
    domain = ["null", "significant"] if called else ["null"]
    words = "datum.label == 'null' ? 'what chance reaches (95%)' : 'significant from here'"
    legend = figure.stroke_legend(None, 2, labelExpr=words, symbolStrokeColor=theme.WORSE[0])
    dashes = alt.Scale(domain=domain, range=[[1, 0], [5, 3]][: len(domain)])
    series = alt.StrokeDash("series:N", scale=dashes, legend=legend)
    lines = alt.Chart().transform_filter("datum.part == 'line'")
    edge = lines.mark_line(strokeWidth=5, color=theme.BACKGROUND[0], opacity=0.75, tooltip=False)
    line = lines.mark_line(strokeWidth=2.4, color=theme.WORSE[0])
    tip = figure.tips(("series", "line", ""), ("r", "r", ".3f"), ("freq", "frequency", ".3~%"))
    return [edge.encode(x, y, alt.Detail("series:N")), line.encode(x, y, series, tooltip=tip)]


ANALYSIS = Analysis(
    "calibration",
    chapter="Chance",
    figures=lambda records: [calibration_figure(records)],
)
