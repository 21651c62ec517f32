"""Distributions of the best correlations, one ridge per comparison."""

from __future__ import annotations

import altair as alt
import numpy as np
from scipy.ndimage import gaussian_filter1d

from homolog.analyses.records import PairRecords
from homolog.analyses.rows import defined_r, panel
from homolog.charts import theme
from homolog.charts.figure import (
    R_AXIS,
    Figure,
    Rows,
    axis_lookup,
    comparison_scale,
    finish,
    panels,
    rounded,
    tips,
)
from homolog.charts.words import number
from homolog.record.comparisons import NEURON, comparison_of

BIN = 0.01
SMOOTHING = 1.6  # bins
RIDGE_HEIGHT = 0.73  # of the distance between two baselines


def ridges(records: PairRecords, kind: str) -> Rows:
    """Densities of r, one ridge per comparison and direction, each scaled to the same height.

    A row with part "ridge" has r, base, top; one with part "median" has r, base, top and n.
    """
    names = records.comparisons(kind)
    values = {(name, side): defined_r(records, name, side) for name in names for side in "AB"}
    low = min((float(r.min()) for r in values.values() if len(r)), default=0.0)
    edges = np.arange(np.floor(min(low, 0.0) * 10) / 10, 1.0 + BIN / 2, BIN)
    rows: Rows = []
    for place, name in enumerate(reversed(names)):
        for side in "AB":
            if not len(r := values[name, side]):
                continue
            shared = {
                "panel": panel(records, side, kind),
                "comparison": name,
                "name": comparison_of(name).plain,
                "base": place,
            }
            rows += [{**shared, **point} for point in _ridge(r, edges, place)]
    return rows


def _ridge(r: np.ndarray, edges: np.ndarray, base: int) -> Rows:
    density = smooth(np.histogram(np.clip(r, edges[0], 1.0), edges)[0].astype(float))
    density /= density.max()
    centres = (edges[:-1] + edges[1:]) / 2
    median = float(np.median(r))
    at_median = float(np.interp(median, centres, density))

    def point(part: str, x: float, height: float) -> dict:
        return {"part": part, "r": rounded(x), "top": rounded(base + RIDGE_HEIGHT * height)}

    heights = zip(centres, density, strict=True)
    rows = [point("ridge", x, height) for x, height in heights if height > 5e-4]
    return [*rows, {**point("median", median, at_median), "n": len(r)}]


def smooth(counts: np.ndarray) -> np.ndarray:
    """Counts per bin after a Gaussian, reflected at both ends so that the total is kept."""
    return gaussian_filter1d(counts, SMOOTHING, mode="reflect", radius=7)


def distribution_figure(records: PairRecords) -> Figure | None:
    """The paper's first figure: the distribution of MPPC with all controls, for features."""
    return _ridge_figure(
        ridges(records, "sae"),
        records.comparisons("sae"),
        name="distribution",
        title="How close is the closest partner?",
        read="Each ridge shows how the correlations of all features with their best partners are "
        "distributed (every ridge drawn to the same height, line at the median): the further "
        "right, the more is shared.",
    )


def neuron_figure(records: PairRecords) -> Figure | None:
    """The same for neurons, beside their random baseline."""
    return _ridge_figure(
        ridges(records, NEURON),
        records.comparisons(NEURON),
        name="neurons",
        title="Single neurons, for comparison",
        read="The same for single neurons in place of dictionary features: where both ridges "
        "coincide, neurons share no more than chance gives them.",
    )


def _ridge_figure(
    rows: Rows, names: list[str], *, name: str, title: str, read: str
) -> Figure | None:
    if not rows:
        return None
    chart = panels(_ridge_layers(rows, names[::-1]), rows, height=62 * len(names) + 12)
    medians = "; ".join(
        f"{row['panel']}, {row['name']}: {number(row['r'])}"
        for row in rows
        if row["part"] == "median"
    )
    alt_text = f"Ridges of the distribution of best correlations. Medians: {medians}."
    return Figure(name, title, read, alt_text, finish(chart, rows, axes=132))


def _ridge_layers(rows: Rows, names: list[str]) -> list[alt.Chart]:
    """Ridges, a line at the median of each, and its value.  names: from the bottom up."""
    low = min(row["r"] for row in rows)
    x = alt.X("r:Q", axis=R_AXIS, scale=alt.Scale(domain=[min(0.0, round(low - 0.05, 1)), 1]))
    axis = alt.Axis(
        values=list(range(len(names))),
        labelExpr=axis_lookup([comparison_of(name).label for name in names]),
        grid=True,
        ticks=False,
        labelBaseline="middle",
        labelOffset=-14,
        labelLineHeight=14,
    )
    y = alt.Y("base:Q", title=None, scale=alt.Scale(domain=[0, len(names)], nice=False), axis=axis)
    colour = alt.Color("comparison:N", scale=comparison_scale(names[::-1]), legend=None)
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
