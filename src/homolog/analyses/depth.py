"""Do partners sit at the same depth?  Depth is the share of a model's blocks passed."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from homolog.analyses.analysis import Analysis
from homolog.analyses.records import PairRecords
from homolog.charts import figure, theme
from homolog.charts.words import CLOSE, percent
from homolog.record.comparisons import MAIN, NEURONS


def depths(records: PairRecords) -> figure.Rows:
    """Relative depth of features against that of their best matches, main comparison, by layer.

    A row: depth, mean, low, high (10 % and 90 % quantiles) with series "all" or "close".
    """
    rows: figure.Rows = []
    for side, model, partner in records.sides:
        n_own, n_partner = records.n_layers(model), records.n_layers(partner)
        depth = (pl.col("best_layer") + 1).cast(pl.Float64) / n_partner
        main = records.matches.filter(pl.col("r").is_finite(), comparison=MAIN.name, side=side)
        for series, some in (("all", main), ("close", main.filter(pl.col("r") > CLOSE))):
            by_layer = some.group_by("layer").agg(
                mean=depth.mean(),
                low=depth.quantile(0.1, "linear"),
                high=depth.quantile(0.9, "linear"),
                n=pl.len(),
            )
            rows += [
                {
                    "panel": records.panel(side),
                    "series": series,
                    "layer": row["layer"],
                    "depth": figure.rounded((row["layer"] + 1) / n_own),
                    "n": row["n"],
                    **{key: figure.rounded(row[key]) for key in ("mean", "low", "high")},
                    **records.layer_link(side, layer=row["layer"]),
                }
                for row in by_layer.sort("layer").iter_rows(named=True)
            ]
    return rows


def depth_figure(records: PairRecords) -> figure.Figure | None:
    """Relative depth of features and of their best matches."""
    rows = depths(records)
    if not rows:
        return None
    diagonal = [
        {"panel": name, "series": "diagonal", "depth": end, "mean": end}
        for name in dict.fromkeys(row["panel"] for row in rows)
        for end in (0.0, 1.0)
    ]
    ends = "; ".join(
        f"{row['panel']}, block {row['layer']}: {percent(row['mean'])}"
        for row in rows
        if row["series"] == "all"
    )
    chart = figure.panels(_depth_layers(*figure.linked(rows)), rows, height=260)
    return figure.Figure(
        "depth",
        "Do partners sit at the same depth?",
        "Depth is the share of a model\u2019s blocks passed; the closer the line keeps to the "
        "dotted diagonal, the more the best partners sit at the same relative depth.",
        "Lines of the mean relative depth of best partners against the depth of the feature. "
        f"{ends}.",
        figure.finish(chart, rows + diagonal, axes=66),
    )


def _depth_layers(mark: dict[str, Any], link: dict[str, Any]) -> list[alt.Chart]:
    """The band and the line of all features, the line of close ones, the diagonal, and points."""
    partner = "depth of its best partner"
    x = alt.X("depth:Q", title="depth of the feature", axis=figure.SHARE_AXIS, scale=figure.UNIT)
    y = alt.Y("mean:Q", title=partner, axis=figure.SHARE_AXIS, scale=figure.UNIT)
    blue, orange = (theme.comparison_colour(comparison.name) for comparison in (MAIN, NEURONS))
    domain = ["all", "close", "diagonal"]
    labels = (
        f"{{all: 'all features (eight in ten lie in the band)', close: 'close ones (r > {CLOSE})', "
        "diagonal: 'same relative depth'}[datum.label]"
    )
    legend = figure.stroke_legend(None, 3, labelExpr=labels)
    colours = alt.Scale(domain=domain, range=[blue, orange, theme.MUTED[0]])
    colour = alt.Color("series:N", scale=colours, legend=legend)
    dashes = alt.Scale(domain=domain, range=[[1, 0], [6, 3], [2, 3]])
    dash = alt.StrokeDash("series:N", scale=dashes, legend=legend)
    area = alt.Chart().mark_area(opacity=0.18, color=blue, tooltip=False)
    all_features = area.transform_filter("datum.series == 'all'")
    band = all_features.encode(x, alt.Y("low:Q", title=partner), alt.Y2("high:Q"))
    lines = alt.Chart().mark_line(strokeWidth=2.4, tooltip=False).encode(x, y, colour, dash)
    # As an encoding, the colours of the points would enter the legend: they are a condition.
    dots = alt.condition("datum.series == 'all'", alt.value(blue), alt.value(orange))
    tip = figure.tips(
        ("layer", "block", ""),
        ("depth", "depth", ".0%"),
        ("mean", "mean partner depth", ".0%"),
        ("n", "features", ","),
    )
    point = alt.Chart().mark_point(size=55, opacity=1, **mark)
    points = point.encode(x, y, color=dots, tooltip=tip, **link)
    return [band, lines, points.transform_filter("datum.series != 'diagonal'")]


ANALYSIS = Analysis(
    "depth",
    chapter="Depth",
    figures=lambda records: [depth_figure(records)],
    template='{{ figure("depth") }}',
)
