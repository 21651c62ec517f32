"""The figure of what the key part of each circuit reads from the end (`attention`)."""

from __future__ import annotations

import altair as alt

from homolog.analyses.induction.figures import whiskers
from homolog.analyses.induction.records import CircuitRecords, grouped
from homolog.analyses.induction.words import component_words
from homolog.charts import theme
from homolog.charts.figure import SHARE_AXIS, Figure, Rows, finish, panels, significant, tips
from homolog.charts.words import percent
from homolog.record.circuits import ANOTHER, READ_POSITIONS
from homolog.record.comparisons import MAIN


def attention_bars(records: CircuitRecords) -> Rows:
    """One row per model and labelled position."""
    columns = {"share": "share", "low": "share_lo", "high": "share_hi", "weight": "weight"}
    return [
        {
            "panel": f"{row['model']}: {component_words(row['part'])}",
            "position": row["position"],
        }
        | {name: significant(row[column]) for name, column in columns.items()}
        for row in records.attention
    ]


def attention_figure(records: CircuitRecords) -> Figure | None:
    """The figure; None where the run has no such table, or no model has a circuit."""
    rows = attention_bars(records)
    if not rows:
        return None
    there = {row["position"] for row in rows}
    order = [position for position in READ_POSITIONS if position in there]
    axis = alt.Axis(labelAngle=0, grid=False, ticks=False, labelOverlap=True)
    x = alt.X("position:N", title="position that is read", sort=order, axis=axis)
    y = alt.Y("share:Q", title="share of the weights", axis=SHARE_AXIS)
    numbers = ("share", "share", ".1%"), ("low", "from", ".1%"), ("high", "to", ".1%")
    tip = tips(("position", "position", ""), *numbers, ("weight", "mean weight", ".3g"))
    bars = alt.Chart().mark_bar(color=theme.comparison_colour(MAIN.name)).encode(x, y, tooltip=tip)
    chart = panels([bars, whiskers(x)], rows, height=170).resolve_scale(y="independent")
    return Figure(
        "hidden-attention",
        "Which positions does the key part read from the end?",
        "Each bar is the share of one position in all weights with which the last position reads: "
        "of a head its attention, of a scan its hidden attention, the mean size over channels. "
        f"\u201c{ANOTHER}\u201d is the mean of one other position. Each model has its own scale.",
        f"Bars of the share of the weights by position. Largest: {_largest(rows)}.",
        finish(chart, rows, axes=58, each=True),
    )


def _largest(rows: Rows) -> str:
    """The position of each panel that is read most."""
    most = [
        (panel, max(own, key=lambda row: row["share"] or 0))
        for (panel,), own in grouped(rows, "panel").items()
    ]
    return "; ".join(f"{panel}: {row['position']} {percent(row['share'])}" for panel, row in most)
