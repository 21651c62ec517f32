"""Charts by depth: which blocks match which, and whether partners sit equally deep."""

from __future__ import annotations

from typing import Any

import altair as alt

from homolog.analyses.records import PairRecords
from homolog.charts import theme
from homolog.charts.figure import SHARE_AXIS, UNIT, Figure, finish, panels, stroke_legend, tips
from homolog.charts.words import CLOSE, number, percent
from homolog.report import aggregate


def layer_figure(records: PairRecords) -> Figure | None:
    """Mean maximum correlation of every layer pair, both directions."""
    rows = aggregate.layer_means(records)
    if not rows:
        return None
    n_a = 1 + max(row["a"] for row in rows)
    chart = panels(_cell_layers(rows, *records.pair), rows, height=min(420, max(150, 38 * n_a)))
    top = "; ".join(
        f"{row['panel']}, block {row['a']} with block {row['b']}: {number(row['mean'])}"
        for row in rows
        if row["best"]
    )
    return Figure(
        "layers",
        "Which blocks match which?",
        "Each cell is the mean over the features of one block of their best correlation within "
        "one block of "
        "the other model; outlined is the best block for each row on the left "
        f"(features of {records.pair[0]}) and for each column on the right (features of "
        f"{records.pair[1]}).",
        f"Heatmaps of the mean best correlation of every pair of blocks. Best: {top}.",
        finish(chart, rows, axes=58),
    )


def _linked(rows: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(properties of a mark, channels) that lead where the rows have a link to."""
    return (
        ({"cursor": "pointer"}, {"href": alt.Href("link:N")})
        if any("link" in row for row in rows)
        else ({}, {})
    )


def _cell_layers(rows: list[dict[str, Any]], a: str, b: str) -> list[alt.Chart]:
    """Coloured cells, outlines of the best ones and, where they fit, the numbers."""
    mark, link = _linked(rows)
    band = alt.Scale(paddingInner=0.08, paddingOuter=0.04)
    across = alt.Axis(labelAngle=0, labelOverlap=True, grid=False, ticks=False)
    upward = alt.Axis(grid=False, ticks=False, labelOverlap=True)
    x = alt.X("b:O", title=f"block of {b}", scale=band, axis=across)
    y = alt.Y("a:O", title=f"block of {a}", sort="descending", scale=band, axis=upward)
    defined = [row["mean"] for row in rows if row["mean"] is not None]
    low, high = (min(defined), max(defined)) if defined else (0.0, 1.0)
    colour = alt.Color(
        "mean:Q",
        scale=alt.Scale(scheme="viridis", domain=[low, high]),
        legend=alt.Legend(
            title="mean best correlation", format=".2f", gradientLength=180, tickCount=3
        ),
    )
    tip = tips(("a", a, ""), ("b", b, ""), ("mean", "mean", ".3f"), ("n", "features", ","))
    cells = alt.Chart().mark_rect(**mark).encode(x, y, colour, tooltip=tip, **link)
    outline = alt.Chart().mark_rect(fillOpacity=0, stroke=theme.CELL_MARK[0], strokeWidth=2, **mark)
    layers = [cells, outline.transform_filter("datum.best").encode(x, y, **link)]
    if len({row["b"] for row in rows}) <= 12 and len({row["a"] for row in rows}) <= 12:
        bright = f"datum.mean > {low + 0.55 * (high - low):.4f}"
        ink = alt.condition(bright, alt.value("#101010"), alt.value("#fdfdfd"))
        text = alt.Text("mean:Q", format=".2f")
        numbers = alt.Chart().mark_text(fontSize=10.5, tooltip=False, **mark)
        layers.append(numbers.encode(x, y, text=text, color=ink, **link))
    return layers


def spaces_figure(records: PairRecords) -> Figure | None:
    """CKA and SVCCA of the residual streams, RSA and SVCCA of decoder directions, for every layer
    pair.
    """
    rows = aggregate.spaces(records)
    if not rows:
        return None
    a, b = records.pair
    band = alt.Scale(paddingInner=0.08, paddingOuter=0.04)
    x = alt.X(
        "b:O",
        title=f"block of {b}",
        scale=band,
        axis=alt.Axis(labelAngle=0, labelOverlap=True, grid=False, ticks=False),
    )
    upward = alt.Axis(grid=False, ticks=False, labelOverlap=True)
    y = alt.Y("a:O", title=f"block of {a}", sort="descending", scale=band, axis=upward)
    ends = "datum.value == 0 ? 'lowest' : datum.value == 1 ? 'highest' : ''"
    legend = alt.Legend(title="in its panel", values=[0, 1], labelExpr=ends, gradientLength=120)
    colour = alt.Color("tone:Q", scale=alt.Scale(scheme="viridis", domain=[0, 1]), legend=legend)
    tip = tips(("a", a, ""), ("b", b, ""), ("value", "value", ".3f"), ("n", "matched pairs", ","))
    layers = [alt.Chart().mark_rect().encode(x, y, colour, tooltip=tip)]
    if len({row["b"] for row in rows}) <= 12 and len({row["a"] for row in rows}) <= 12:
        ink = alt.condition("datum.tone > 0.55", alt.value("#101010"), alt.value("#fdfdfd"))
        text = alt.Chart().mark_text(fontSize=10.5, tooltip=False)
        layers.append(text.encode(x, y, text=alt.Text("value:Q", format=".2f"), color=ink))
    chart = panels(layers, rows, height=min(420, max(150, 38 * len({row["a"] for row in rows}))))
    means = "; ".join(
        title
        + f" {number(value)}"
        + ("" if other is None else f", {number(other)} with the untrained model")
        for title, value, other in aggregate.space_means(records)
    )
    missing = [
        title
        for measure, title in aggregate.SPACES.items()
        if measure not in {row["measure"] for row in rows}
    ]
    return Figure(
        "spaces",
        "Are the spaces of these blocks alike?",
        "Each cell compares one block of each model as a whole: the residual streams on the same "
        "tokens, and the "
        "decoder directions of the features that match (empty where too few do). Colours run from "
        "the lowest to the "
        f"highest value of each panel, which its title names. Mean of all cells: {means}."
        + (f" Not measured in this run: {'; '.join(missing)}." if missing else ""),
        "Heatmaps of the similarity of every pair of blocks. "
        f"{'; '.join(dict.fromkeys(r['panel'] for r in rows))}.",
        finish(chart, rows, axes=58),
    )


def depth_figure(records: PairRecords) -> Figure | None:
    """Relative depth of features and of their best matches."""
    rows = aggregate.depths(records)
    if not rows:
        return None
    diagonal = [
        {"panel": name, "series": "diagonal", "depth": end, "mean": end}
        for name in dict.fromkeys(row["panel"] for row in rows)
        for end in (0.0, 1.0)
    ]
    chart = panels(_depth_layers(*_linked(rows)), rows, height=260)
    ends = "; ".join(
        f"{row['panel']}, block {row['layer']}: {percent(row['mean'])}"
        for row in rows
        if row["series"] == "all"
    )
    return Figure(
        "depth",
        "Do partners sit at the same depth?",
        "Depth is the share of a model\u2019s blocks passed; the closer the line keeps to the "
        "dotted "
        "diagonal, the more the best partners sit at the same relative depth.",
        "Lines of the mean relative depth of best partners against the depth of the feature. "
        f"{ends}.",
        finish(chart, rows + diagonal, axes=66),
    )


def _depth_layers(mark: dict[str, Any], link: dict[str, Any]) -> list[alt.Chart]:
    """The band and the line of all features, the line of close ones, the diagonal, and points to
    hover.
    """
    partner = "depth of its best partner"
    x = alt.X("depth:Q", title="depth of the feature", axis=SHARE_AXIS, scale=UNIT)
    y = alt.Y("mean:Q", title=partner, axis=SHARE_AXIS, scale=UNIT)
    blue, orange = theme.comparison_colour("main"), theme.comparison_colour("neurons")
    domain = ["all", "close", "diagonal"]
    labels = (
        f"{{all: 'all features (eight in ten lie in the band)', close: 'close ones (r > {CLOSE})', "
        "diagonal: 'same relative depth'}[datum.label]"
    )
    legend = stroke_legend(None, 3, labelExpr=labels)
    colours = alt.Scale(domain=domain, range=[blue, orange, theme.MUTED[0]])
    colour = alt.Color("series:N", scale=colours, legend=legend)
    dashes = alt.Scale(domain=domain, range=[[1, 0], [6, 3], [2, 3]])
    dash = alt.StrokeDash("series:N", scale=dashes, legend=legend)
    area = alt.Chart().mark_area(opacity=0.18, color=blue, tooltip=False)
    band = area.transform_filter("datum.series == 'all'").encode(
        x, alt.Y("low:Q", title=partner), alt.Y2("high:Q")
    )
    lines = alt.Chart().mark_line(strokeWidth=2.4, tooltip=False).encode(x, y, colour, dash)
    # The points repeat the lines' colours as a condition: as an encoding they would enter the
    # legend.
    dots = alt.condition("datum.series == 'all'", alt.value(blue), alt.value(orange))
    tip = tips(
        ("layer", "block", ""),
        ("depth", "depth", ".0%"),
        ("mean", "mean partner depth", ".0%"),
        ("n", "features", ","),
    )
    points = (
        alt.Chart()
        .mark_point(size=55, opacity=1, **mark)
        .encode(x, y, color=dots, tooltip=tip, **link)
    )
    return [band, lines, points.transform_filter("datum.series != 'diagonal'")]
