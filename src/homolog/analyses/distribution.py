"""How close is the closest partner, of features and of single neurons?"""

from __future__ import annotations

import altair as alt
import numpy as np
from scipy.ndimage import gaussian_filter1d

from homolog.analyses.analysis import Analysis
from homolog.analyses.records import PairRecords
from homolog.charts import figure, theme
from homolog.charts.words import CLOSE, number, percent
from homolog.record.comparisons import comparison_of
from homolog.record.sides import NEURON

BIN = 0.01
SMOOTHING = 1.6  # bins
RIDGE_HEIGHT = 0.73  # of the distance between two baselines
DASHES = {"skyline": [6, 3], "baseline": [2, 2.5]}


def ridges(records: PairRecords, kind: str) -> figure.Rows:
    """Densities of r, one ridge per comparison and direction, each scaled to the same height.

    A row with part "ridge" has r, base, top; one with part "median" has r, base, top and n.
    """
    names = records.comparisons(kind)
    values = {(name, side): records.defined_r(name, side) for name in names for side in "AB"}
    low = min((float(r.min()) for r in values.values() if len(r)), default=0.0)
    edges = np.arange(np.floor(min(low, 0.0) * 10) / 10, 1.0 + BIN / 2, BIN)
    rows: figure.Rows = []
    for place, name in enumerate(reversed(names)):
        for side in "AB":
            if not len(r := values[name, side]):
                continue
            shared = {
                "panel": records.panel(side, kind),
                "comparison": name,
                "name": comparison_of(name).plain,
                "base": place,
            }
            rows += [{**shared, **point} for point in _ridge(r, edges, place)]
    return rows


def _ridge(r: np.ndarray, edges: np.ndarray, base: int) -> figure.Rows:
    density = smooth(np.histogram(np.clip(r, edges[0], 1.0), edges)[0].astype(float))
    density /= density.max()
    centres = (edges[:-1] + edges[1:]) / 2
    median = float(np.median(r))
    at_median = float(np.interp(median, centres, density))

    def point(part: str, x: float, height: float) -> dict:
        return {
            "part": part,
            "r": figure.rounded(x),
            "top": figure.rounded(base + RIDGE_HEIGHT * height),
        }

    heights = zip(centres, density, strict=True)
    rows = [point("ridge", x, height) for x, height in heights if height > 5e-4]
    return [*rows, {**point("median", median, at_median), "n": len(r)}]


def smooth(counts: np.ndarray) -> np.ndarray:
    """Counts per bin after a Gaussian, reflected at both ends so that the total is kept."""
    return gaussian_filter1d(counts, SMOOTHING, mode="reflect", radius=7)


RIDGES = {
    "sae": (
        "distribution",
        "How close is the closest partner?",
        "Each ridge shows how the correlations of all features with their best partners are "
        "distributed (every ridge drawn to the same height, line at the median): the further "
        "right, the more is shared.",
    ),
    NEURON: (
        "neurons",
        "Single neurons, for comparison",
        "The same for single neurons in place of dictionary features: where both ridges "
        "coincide, neurons share no more than chance gives them.",
    ),
}
"""Name, title and reading of the figure of features, the paper's first, and that of neurons."""


def ridge_figure(records: PairRecords, kind: str) -> figure.Figure | None:
    """The distribution of the best correlations of a kind, with all controls."""
    rows, names = ridges(records, kind), records.comparisons(kind)
    if not rows:
        return None
    chart = figure.panels(_ridge_layers(rows, names[::-1]), rows, height=62 * len(names) + 12)
    medians = "; ".join(
        f"{row['panel']}, {row['name']}: {number(row['r'])}"
        for row in rows
        if row["part"] == "median"
    )
    said = f"Ridges of the distribution of best correlations. Medians: {medians}."
    return figure.Figure(*RIDGES[kind], said, figure.finish(chart, rows, axes=132))


def _ridge_layers(rows: figure.Rows, names: list[str]) -> list[alt.Chart]:
    """Ridges, a line at the median of each, and its value.  names: from the bottom up."""
    low = min(row["r"] for row in rows)
    x = alt.X(
        "r:Q", axis=figure.R_AXIS, scale=alt.Scale(domain=[min(0.0, round(low - 0.05, 1)), 1])
    )
    axis = alt.Axis(
        values=list(range(len(names))),
        labelExpr=figure.axis_lookup([comparison_of(name).label for name in names]),
        grid=True,
        ticks=False,
        labelBaseline="middle",
        labelOffset=-14,
        labelLineHeight=14,
    )
    y = alt.Y("base:Q", title=None, scale=alt.Scale(domain=[0, len(names)], nice=False), axis=axis)
    colour = alt.Color("comparison:N", scale=figure.comparison_scale(names[::-1]), legend=None)
    tip = figure.tips(("name", "comparison", ""), ("r", "median", ".3f"), ("n", "features", ","))
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


def share_curves(records: PairRecords) -> figure.Rows:
    """Share of the defined features whose best partner has at least correlation r, 0 to 1."""
    grid = np.linspace(0.0, 1.0, 101)
    rows: figure.Rows = []
    for name in records.comparisons("sae"):
        for side in "AB":
            r = np.sort(records.defined_r(name, side))
            if not len(r):
                continue
            shares = 1.0 - np.searchsorted(r, grid, side="left") / len(r)
            rows += [
                {
                    "panel": records.panel(side),
                    "comparison": name,
                    "name": comparison_of(name).plain,
                    "r": figure.rounded(x),
                    "share": figure.rounded(y),
                }
                for x, y in zip(grid, shares, strict=True)
            ]
    return rows


def share_figure(records: PairRecords) -> figure.Figure | None:
    """Share of features with a partner at least as close as r."""
    rows = share_curves(records)
    if not rows:
        return None
    names = figure.seen(rows)
    legend = figure.stroke_legend(None, 3, labelExpr=figure.comparison_labels(names))
    colour = alt.Color("comparison:N", scale=figure.comparison_scale(names), legend=legend)
    dashes = [DASHES.get(comparison_of(name).role, [1, 0]) for name in names]
    scale = alt.Scale(domain=names, range=dashes)
    dash = alt.StrokeDash("comparison:N", legend=legend, scale=scale)
    title = "correlation of the best partner, at least"
    x = alt.X("r:Q", title=title, axis=alt.Axis(format=".1f", tickCount=6))
    y = alt.Y("share:Q", title="share of features", axis=figure.SHARE_AXIS, scale=figure.UNIT)
    tip = figure.tips(("name", "comparison", ""), ("r", "r", ".2f"), ("share", "share", ".1%"))
    curve = alt.Chart().mark_line(strokeWidth=2.4, interpolate="monotone")
    lines = curve.encode(x, y, colour, dash, tooltip=tip)
    close = alt.Chart().mark_rule(strokeDash=[4, 4], opacity=0.8).encode(x=alt.datum(CLOSE))
    at = "; ".join(
        f"{row['panel']}, {row['name']}: {percent(row['share'])}"
        for row in rows
        if row["r"] == CLOSE
    )
    return figure.Figure(
        "shares",
        "How many features have a partner that close?",
        "Read the share of features whose best partner correlates at least as highly as the value "
        f"below; the dashed rule at {CLOSE} is what this page calls close.",
        f"Curves of the share of features with a partner at least so close. At {CLOSE}: {at}.",
        figure.finish(figure.panels([close, lines], rows, height=250), rows, axes=62),
    )


ANALYSIS = Analysis(
    "distribution",
    chapter="Distributions",
    figures=lambda records: (
        ridge_figure(records, "sae"),
        share_figure(records),
        ridge_figure(records, NEURON),
    ),
)
