"""Charts of the run itself: the quality of its dictionaries and the time of its stages."""

from __future__ import annotations

from typing import Any

import altair as alt

from homolog.analyses.records import PairRecords, Records
from homolog.charts import theme
from homolog.charts.figure import (
    PANEL_WIDTH,
    SHARE_AXIS,
    UNIT,
    Figure,
    finish,
    panels,
    stroke_legend,
    tips,
)
from homolog.charts.words import number
from homolog.report import aggregate

DASHES = {
    "compared": [1, 0],
    "second dictionary seed": [7, 3],
    "second training seed": [3, 2],
    "untrained model": [1, 3],
}


def quality_figure(records: PairRecords) -> Figure | None:
    """Quality of the dictionaries by depth."""
    rows = aggregate.quality(records)
    if not rows:
        return None
    chart = (
        panels(_quality_layers(rows, records.pair), rows, height=170)
        .resolve_scale(y="independent")
        .properties(bounds="flush", spacing={"row": 58, "column": 62})
    )
    compared = [row for row in rows if row["variant"] == "compared"]
    spans = "; ".join(
        f"{title}, {name}: {number(min(v))} to {number(max(v))}"
        for title in aggregate.QUALITY.values()
        for name in records.pair
        if (v := [r["value"] for r in compared if r["panel"] == title and r["family"] == name])
    )
    return Figure(
        "dictionaries",
        "How good are the dictionaries?",
        "Thick lines are the dictionaries compared, thin ones those of the controls; a dictionary "
        "is usable "
        "where explained variance and loss recovered are high and few features are dead (a cross "
        "marks one "
        "that misses its gates).",
        f"Quality of the dictionaries by depth. {spans}.",
        finish(chart, rows, axes=56, each=True),
    )


def _quality_layers(rows: list[dict[str, Any]], pair: tuple[str, str]) -> list[alt.Chart]:
    """Lines and points, colour by architecture and dash by variant, and crosses on what misses its
    gates.
    """
    found = {row["family"] for row in rows}
    families = [*(name for name in pair if name in found), *sorted(found - set(pair))]
    variants = [name for name in DASHES if any(row["variant"] == name for row in rows)]
    colours = [theme.MODEL_COLOURS[i % len(theme.MODEL_COLOURS)][0] for i in range(len(families))]
    x = alt.X("depth:Q", title="depth (share of blocks passed)", axis=SHARE_AXIS, scale=UNIT)
    ticks = alt.Axis(tickCount=5, minExtent=38, labelFlush=True)
    y = alt.Y("value:Q", title=None, axis=ticks, scale=alt.Scale(zero=False, nice=True))
    colour = alt.Color(
        "family:N",
        scale=alt.Scale(domain=families, range=colours),
        legend=stroke_legend("architecture of", 1),
    )
    dash = alt.StrokeDash(
        "variant:N",
        scale=alt.Scale(domain=variants, range=[DASHES[name] for name in variants]),
        legend=stroke_legend("dictionaries", 2, symbolStrokeColor=theme.MUTED[0]),
    )
    compared = "datum.variant == 'compared'"
    thick = alt.condition(compared, alt.value(2.6), alt.value(1.4))
    large = alt.condition(compared, alt.value(45), alt.value(18))
    detail = alt.Detail("dictionary:N")
    tip = tips(
        ("dictionary", "dictionary", ""),
        ("layer", "block", ""),
        ("value", "value", ".3f"),
        ("passed", "passes its gates", ""),
    )
    lines = (
        alt.Chart().mark_line(tooltip=False).encode(x, y, colour, dash, detail, strokeWidth=thick)
    )
    points = alt.Chart().mark_point(opacity=1).encode(x, y, colour, detail, tooltip=tip, size=large)
    cross = alt.Chart().mark_point(
        shape="cross", size=150, filled=False, strokeWidth=2.2, color=theme.INK[0], angle=45
    )
    return [lines, points, cross.transform_filter("!datum.passed").encode(x, y, tooltip=tip)]


def stage_figure(records: Records) -> Figure | None:
    """Seconds by stage."""
    rows = aggregate.stage_groups(records)
    if not rows:
        return None
    order = [row["stage"] for row in rows]
    y = alt.Y("stage:N", sort=order, title=None, axis=alt.Axis(ticks=False, grid=False))
    x = alt.X("seconds:Q", title="seconds", axis=alt.Axis(tickCount=6))
    bars = (
        alt.Chart()
        .mark_bar(color=theme.comparison_colour("main"), height={"band": 0.62}, cornerRadiusEnd=2)
        .encode(x, y)
    )
    text = (
        alt.Chart()
        .mark_text(align="left", dx=5)
        .encode(x, y, text=alt.Text("seconds:Q", format=".1f"))
    )
    chart = alt.layer(bars, text).properties(width=2 * PANEL_WIDTH, height=30 * len(rows))
    listed = "; ".join(f"{row['stage']}: {number(row['seconds'], 1)} s" for row in rows)
    return Figure(
        "stages",
        "Where did the time go?",
        "Each bar is the wall time of one kind of stage, all its stages added up, on the machine "
        "of the run.",
        f"Bars of the seconds of each stage. {listed}.",
        finish(chart, rows, axes=120),
    )
