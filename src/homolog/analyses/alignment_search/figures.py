"""What the first k directions of a source supply, by k, for each source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import altair as alt

from homolog.analyses.records import PairRecords
from homolog.charts import theme
from homolog.charts.figure import (
    SHARE_AXIS,
    Figure,
    Rows,
    finish,
    panels,
    significant,
    stroke_legend,
    tips,
)
from homolog.charts.words import number
from homolog.record.comparisons import MAIN, MODEL_SEED, RANDOM_MODEL
from homolog.record.tables import ALIGNMENT_SEARCH
from homolog.record.tables.causal import OWN, SHUFFLED

START = "the other, Procrustes alone"
NAMES = {
    MAIN.name: "the other model",
    MODEL_SEED.name: "another seed",
    OWN: "the model itself",
    RANDOM_MODEL.name: "the other, untrained",
    SHUFFLED: "the other, shuffled",
}
SHOWN = (-0.25, 1.0)
"""Shares that the axis reaches to; lines beyond it are cut."""


@dataclass(frozen=True)
class Curve:
    """A share that is drawn by k.  column: of the table.  read: what its heights say."""

    name: str
    column: str
    title: str
    axis: str
    read: str


PANELS = (
    Curve(
        "alignment-search",
        "kept",
        "What does the other model supply of a part of the stream?",
        "share kept",
        "The first k directions of the stream are swapped, the rest stays. 100%: as good as the "
        "model's own; 0%: no better than their mean. Few directions carry little, and are kept "
        "easily: the right end of the lines is what counts.",
    ),
    Curve(
        "alignment-search-alone",
        "alone",
        "How many directions of the other model are enough?",
        "share supplied",
        "The same directions, with all others at their mean. 100%: they alone keep the "
        "predictions; 0%: no better than the mean of the whole stream.",
    ),
)


def name_of(row: Mapping[str, Any]) -> str:
    """A map in words."""
    return START if row["map"] == "procrustes" else NAMES[row["source"]]


def curve_rows(records: PairRecords, curve: Curve) -> Rows:
    """One row per map and k, side A first."""
    table = records.table(ALIGNMENT_SEARCH)
    return [
        {
            "panel": f"Into {row['model']}, block {row['layer']}",
            "series": name_of(row),
            "k": row["k"],
            "at": significant(row[curve.column]),
            "lo": significant(row[f"{curve.column}_lo"]),
            "hi": significant(row[f"{curve.column}_hi"]),
            "carried": significant(row["carried"]),
        }
        for side in "AB"
        for row in table.filter(model=records.model_of(side)).iter_rows(named=True)
    ]


def curve_figure(records: PairRecords, curve: Curve) -> Figure | None:
    """A line for each source, both directions side by side."""
    rows = curve_rows(records, curve)
    if not rows:
        return None
    ends = {(row["panel"], row["series"]): row for row in rows}  # the last one: of most directions
    said = "; ".join(
        f"{panel}: {number(row['at'])} of {row['k']} directions"
        for (panel, series), row in ends.items()
        if series == NAMES[MAIN.name]
    )
    return Figure(
        curve.name,
        curve.title,
        f"{curve.read} Bars are 95% intervals over documents.",
        f"Lines of the {curve.axis} by the number of directions, one for each source. {said}.",
        finish(
            panels(_layers(curve, {row["series"] for row in rows}), rows, height=230), rows, axes=64
        ),
    )


def _layers(curve: Curve, drawn: set[str]) -> list[alt.Chart]:
    hues = {
        NAMES[name]: theme.comparison_colour(name)
        for name in (MAIN.name, MODEL_SEED.name, RANDOM_MODEL.name)
    }
    hues |= {NAMES[OWN]: theme.INK[0], NAMES[SHUFFLED]: theme.MUTED[0]}
    hues |= {START: theme.comparison_colour(MAIN.name)}
    hues = {name: hue for name, hue in hues.items() if name in drawn}
    scale = alt.Scale(domain=list(hues), range=list(hues.values()))
    dashes = alt.Scale(domain=list(hues), range=[[5, 4] if n == START else [1, 0] for n in hues])
    legend = stroke_legend(None, 3, labelLimit=260)
    colour = alt.Color("series:N", scale=scale, legend=legend)
    dash = alt.StrokeDash("series:N", scale=dashes, legend=legend)
    x = alt.X(
        "k:Q", title="directions", scale=alt.Scale(type="log", base=2), axis=alt.Axis(tickCount=8)
    )
    y = alt.Y("at:Q", title=curve.axis, axis=SHARE_AXIS, scale=alt.Scale(domain=SHOWN, clamp=True))
    tip = tips(
        ("series", "residuals of", ""),
        ("k", "directions", ""),
        ("at", curve.axis, ".1%"),
        ("lo", "from", ".1%"),
        ("hi", "to", ".1%"),
        ("carried", "carried by them", ".1%"),
    )
    none = alt.Chart().mark_rule(strokeDash=[2, 3], color=theme.MUTED[0], tooltip=False)
    ends = alt.Chart().mark_rule(strokeWidth=1.2, opacity=0.6, tooltip=False)
    line = alt.Chart().mark_line(strokeWidth=2, tooltip=False)
    dot = alt.Chart().mark_point(filled=True, size=36, opacity=1)
    return [
        none.encode(y=alt.datum(0)),
        ends.encode(x, alt.Y("lo:Q"), alt.Y2("hi:Q"), colour),
        line.encode(x, y, colour, dash),
        dot.encode(x, y, colour, tooltip=tip),
    ]
