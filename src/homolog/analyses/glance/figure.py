"""The answer in both directions: shared, explained by controls, unmatched."""

from __future__ import annotations

import altair as alt
import polars as pl

from homolog.analyses.records import PairRecords
from homolog.charts import figure, theme
from homolog.charts.words import is_number, percent
from homolog.record.comparisons import MAIN, SAE_SEED, comparison_of

PARTS = {
    "shared": ("has a homolog", theme.comparison_colour(MAIN.name)),
    "controls": ("explained by controls", theme.EXPLAINED[0]),
    "unmatched": ("no match", theme.GRID[0]),
}
"""What features are divided into, in order: words, colour."""


def parts(records: PairRecords) -> figure.Rows:
    """Shares of the alive features of each direction that has a verdict, in the order of `PARTS`.

    Explained by controls: significant, but no more than controls explain; no match: all others.
    `start` and `end` are where a part lies on the bar; `lo`, `hi` and `ceiling` stand in the first.
    """
    rows: figure.Rows = []
    for side, model, partner in records.sides:
        shared = records.shared_row(model, partner)
        if shared is None or not records.verdict(model, partner).given:
            continue
        fails = pl.col("fails").fill_null("chance").str.split(", ")
        beaten = fails.list.contains("controls") | fails.list.contains("documents")
        part = (
            pl.when(pl.col("homolog").fill_null(False))
            .then(pl.lit("shared"))
            .when(beaten & ~fails.list.contains("chance"))
            .then(pl.lit("controls"))
            .otherwise(pl.lit("unmatched"))
        )
        own = records.matches.filter(pl.col("n_active") > 0, comparison=MAIN.name, side=side)
        count = dict(own.select(part=part).group_by("part").len().iter_rows())
        end = 0.0
        for name, (words, _) in PARTS.items():
            start, end = end, end + count.get(name, 0) / own.height
            rows.append(
                {
                    "direction": f"{model}|in {partner}",
                    "part": words,
                    "share": figure.rounded(end - start),
                    "start": figure.rounded(start),
                    "end": figure.rounded(end),
                    "n": count.get(name, 0),
                }
            )
        first = rows[-len(PARTS)]
        first |= {name: figure.rounded(shared[name]) for name in ("lo", "hi", "ceiling")}
    return rows


def answer_figure(records: PairRecords) -> figure.Figure | None:
    """One bar a direction, with the interval of what is shared and its ceiling."""
    rows = parts(records)
    if not rows:
        return None
    order = list(dict.fromkeys(row["direction"] for row in rows))
    words, colours = zip(*PARTS.values(), strict=True)
    across = alt.Axis(
        labelExpr="split(datum.label, '|')", ticks=False, grid=False, labelFontSize=13
    )
    y = alt.Y("direction:N", sort=order, title=None, axis=across)
    share = alt.Axis(format="%", tickCount=5, grid=False)
    x = alt.X("start:Q", title="share of the features that fire", axis=share, scale=figure.UNIT)
    scale = alt.Scale(domain=list(words), range=list(colours))
    colour = alt.Color("part:N", scale=scale, legend=alt.Legend(title=None, columns=3))
    tip = figure.tips(
        ("direction", "features of", ""), ("part", "part", ""), ("share", "share", ".1%")
    )
    bars = alt.Chart().mark_bar(height={"band": 0.48}).encode(x, alt.X2("end:Q"), y, colour)
    ink = theme.INK[0]
    rule = alt.Chart().transform_filter("datum.lo != null")
    interval = rule.mark_rule(color=ink, strokeWidth=2, tooltip=False).encode(
        alt.X("lo:Q"), alt.X2("hi:Q"), y
    )
    ceiling = alt.Chart().transform_filter("datum.ceiling != null")
    tick = ceiling.mark_tick(
        color=theme.comparison_colour(SAE_SEED.name), thickness=3, size=36, tooltip=False
    ).encode(alt.X("ceiling:Q"), y)
    label = alt.Chart().transform_filter("datum.lo != null || datum.start == 0")
    value = label.mark_text(
        align="left", baseline="bottom", dx=2, dy=-16, fontSize=15, fontWeight=700, color=ink
    ).encode(alt.X("start:Q"), y, text=alt.Text("share:Q", format=".1%"))
    said = "; ".join(
        f"{row['direction'].replace('|', ' ')}, {row['part']}: {percent(row['share'])}"
        for row in rows
    )
    known = any(is_number(row.get("ceiling")) for row in rows)
    limit = (
        f" The upright mark is the ceiling: {comparison_of(SAE_SEED.name).in_sentence()}."
        if known
        else ""
    )
    chart = alt.layer(bars.encode(tooltip=tip), interval, tick, value)
    chart = chart.properties(width=2 * figure.PANEL_WIDTH, height=62 * len(order))
    return figure.Figure(
        "answer",
        "How much is shared?",
        "Of the features that fire, those with a homolog: one in the other model that fires on the "
        "same tokens, beyond what chance and controls explain (95% interval)."
        f"{limit}",
        f"Stacked bars of shares of features. {said}.",
        figure.finish(chart, rows, axes=130),
    )
