"""Shares of the features whose partner is at least so close."""

from __future__ import annotations

import altair as alt
import numpy as np

from homolog.analyses.records import PairRecords
from homolog.analyses.rows import defined_r, panel
from homolog.charts.figure import (
    SHARE_AXIS,
    UNIT,
    Figure,
    Rows,
    comparison_labels,
    comparison_scale,
    finish,
    panels,
    rounded,
    seen,
    stroke_legend,
    tips,
)
from homolog.charts.words import CLOSE, percent
from homolog.record.comparisons import comparison_of

DASHES = {"skyline": [6, 3], "baseline": [2, 2.5]}


def share_curves(records: PairRecords) -> Rows:
    """Share of the defined features whose best partner has at least correlation r, 0 to 1."""
    grid = np.linspace(0.0, 1.0, 101)
    rows: Rows = []
    for name in records.comparisons("sae"):
        for side in "AB":
            r = np.sort(defined_r(records, name, side))
            if not len(r):
                continue
            shares = 1.0 - np.searchsorted(r, grid, side="left") / len(r)
            rows += [
                {
                    "panel": panel(records, side),
                    "comparison": name,
                    "name": comparison_of(name).plain,
                    "r": rounded(x),
                    "share": rounded(y),
                }
                for x, y in zip(grid, shares, strict=True)
            ]
    return rows


def share_figure(records: PairRecords) -> Figure | None:
    """Share of features with a partner at least as close as r."""
    rows = share_curves(records)
    if not rows:
        return None
    names = seen(rows)
    legend = stroke_legend(None, 3, labelExpr=comparison_labels(names))
    colour = alt.Color("comparison:N", scale=comparison_scale(names), legend=legend)
    dashes = [DASHES.get(comparison_of(name).role, [1, 0]) for name in names]
    scale = alt.Scale(domain=names, range=dashes)
    dash = alt.StrokeDash("comparison:N", legend=legend, scale=scale)
    title = "correlation of the best partner, at least"
    x = alt.X("r:Q", title=title, axis=alt.Axis(format=".1f", tickCount=6))
    y = alt.Y("share:Q", title="share of features", axis=SHARE_AXIS, scale=UNIT)
    tip = tips(("name", "comparison", ""), ("r", "r", ".2f"), ("share", "share", ".1%"))
    curve = alt.Chart().mark_line(strokeWidth=2.4, interpolate="monotone")
    lines = curve.encode(x, y, colour, dash, tooltip=tip)
    close = alt.Chart().mark_rule(strokeDash=[4, 4], opacity=0.8).encode(x=alt.datum(CLOSE))
    at = "; ".join(
        f"{row['panel']}, {row['name']}: {percent(row['share'])}"
        for row in rows
        if row["r"] == CLOSE
    )
    return Figure(
        "shares",
        "How many features have a partner that close?",
        "Read the share of features whose best partner correlates at least as highly as the value "
        f"below; the dashed rule at {CLOSE} is what this page calls close.",
        f"Curves of the share of features with a partner at least so close. At {CLOSE}: {at}.",
        finish(panels([close, lines], rows, height=250), rows, axes=62),
    )
