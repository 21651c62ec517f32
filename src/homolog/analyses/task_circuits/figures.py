"""How much of each task the strongest nodes do, by their share, beside nodes in random orders."""

from __future__ import annotations

from typing import Any

import altair as alt

from homolog.analyses.records import Records
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
from homolog.record.comparisons import MAIN
from homolog.record.tables import TASK_CIRCUITS, TASK_CURVES

DISCOVERED, RANDOM = "strongest first", "in random orders"
SHOWN = (-0.5, 1.5)
"""Faithfulness that the axis reaches to; lines beyond it are cut."""


def curve_rows(records: Records) -> Rows:
    """One row per point of a curve, and one per discovered circuit (`circuit` is true)."""
    curves = records.table(TASK_CURVES).iter_rows(named=True)
    rows: Rows = [
        _place(row)
        | {
            "series": DISCOVERED if row["order"] == "score" else RANDOM,
            "line": f"{row['order']} {row['draw']}",
            "share": significant(row["share"]),
            "faithfulness": significant(row["faithfulness"]),
            "nodes": row["n_nodes"],
        }
        for row in curves
    ]
    for row in records.table(TASK_CIRCUITS).iter_rows(named=True):
        if row["faithfulness"] is not None:
            rows.append(
                _place(row)
                | {
                    "series": DISCOVERED,
                    "circuit": True,
                    "share": significant(row["n_nodes"] / row["n_nodes_of_model"]),
                    "faithfulness": significant(row["faithfulness"]),
                    "nodes": row["n_nodes"],
                }
            )
    return rows


def _place(row: Any) -> dict[str, str]:
    return {"panel": f"{row['model']}: {row['task']}"}


def curve_figure(records: Records) -> Figure | None:
    """The curves behind CPR and CMD, a panel for each model and task."""
    rows = curve_rows(records)
    if not rows:
        return None
    circuits = records.table(TASK_CIRCUITS).iter_rows(named=True)
    said = "; ".join(
        f"{row['task']} in {row['model']}: CPR {number(row['cpr'])} "
        f"(random orders {number(row['random_cpr_mean'])}), CMD {number(row['cmd'])}"
        for row in circuits
        if row["faithfulness"] is not None
    )
    return Figure(
        "task-curves",
        "How few nodes do it?",
        "Each line keeps more and more nodes of a model, all others ablated: the strongest of "
        "discovery first, or, thin and grey, in orders drawn at random. The area under the line is "
        "CPR, that between it and 1 is CMD. The ring is the circuit of the table above. Where "
        "the line runs among the grey ones, discovery says nothing about this task.",
        f"Lines of faithfulness by the share of nodes kept. {said}.",
        finish(panels(_layers(), rows, height=220), rows, axes=64),
    )


def _layers() -> list[alt.Chart]:
    x = alt.X("share:Q", title="share of the nodes that are kept", axis=SHARE_AXIS)
    scale = alt.Scale(domain=SHOWN, clamp=True)
    y = alt.Y("faithfulness:Q", title="faithfulness", scale=scale)
    hues = alt.Scale(
        domain=[DISCOVERED, RANDOM], range=[theme.comparison_colour(MAIN.name), theme.MUTED[0]]
    )
    colour = alt.Color("series:N", scale=hues, legend=stroke_legend(None, 2))
    tip = tips(
        ("nodes", "nodes kept", ""),
        ("share", "share of all", ".0%"),
        ("faithfulness", "faithfulness", ".3f"),
    )
    whole = alt.Chart().mark_rule(strokeDash=[2, 3], color=theme.MUTED[0], tooltip=False)

    def lines(series: str, **mark: Any) -> alt.Chart:
        chosen = f"datum.series == '{series}' && !datum.circuit"
        return alt.Chart().transform_filter(chosen).mark_line(**mark)

    ring = alt.Chart().transform_filter("datum.circuit")
    return [
        whole.encode(y=alt.datum(1)),
        lines(RANDOM, strokeWidth=1, opacity=0.4, tooltip=False).encode(
            x, y, colour, detail="line:N"
        ),
        lines(DISCOVERED, strokeWidth=2.5, point=True).encode(x, y, colour, tooltip=tip),
        ring.mark_point(size=150, strokeWidth=2, filled=False).encode(x, y, colour, tooltip=tip),
    ]
