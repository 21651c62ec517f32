"""The figure of `planted_truth.py`, and the numbers behind it as a file."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from homolog.charts import theme
from homolog.report.export import svg_of

NO_CONTROLS = "q, r >= 0.2, unrivalled"
BEFORE = "q, r >= 0.2, unrivalled, above each control"
VERDICT = "verdict"  # of a study
FIRINGS = (3, 10, 30, 100, 300, 1000, 100_000)
NOISES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)


def save(table: pl.DataFrame, folder: Path) -> None:
    """The figure and the numbers behind it."""
    folder.mkdir(parents=True, exist_ok=True)
    chart = alt.hconcat(
        _share_chart(table.filter(table="shares, all three")),
        _recall_chart(table.filter(table="recall")),
        spacing=48,
    )
    spec = chart.resolve_scale(color="independent").to_dict()
    spec["config"] = theme.config()
    (folder / "planted-truth.svg").write_text(svg_of(spec), "utf-8")
    table.write_csv(folder / "planted-truth.csv", float_precision=5)


def _title(text: str) -> alt.TitleParams:
    return alt.TitleParams(text, anchor="start", fontSize=13.5, fontWeight=600, offset=12)


def _share_chart(rows: pl.DataFrame) -> Any:
    """Share called over the share planted: on the diagonal a criterion is right.

    Three quarters of the features without a partner are known to a control.
    """
    rows = rows.drop_nulls("shared").with_columns(called=pl.col("shared") + pl.col("error"))
    x = alt.X("shared:Q", title="features with a partner", axis=alt.Axis(format="%", tickCount=5))
    y = alt.Y(
        "called:Q",
        title="features called",
        axis=alt.Axis(format="%", tickCount=5),
        scale=alt.Scale(domain=[0, 1]),
    )
    names = ["q", BEFORE, VERDICT, "r > 0.7 (paper)"]
    labels = ["q alone", "above each control", "verdict", "r > 0.7"]
    hues = ("neurons", "random-model", "main", "rotated")
    colour = alt.Color(
        "criterion:N",
        scale=alt.Scale(domain=names, range=[theme.comparison_colour(hue) for hue in hues]),
        legend=alt.Legend(
            title=None,
            columns=2,
            labelExpr=f"{json.dumps(labels)}[indexof({json.dumps(names)}, datum.value)]",
        ),
    )
    base = alt.Chart(alt.Data(values=rows.filter(pl.col("criterion").is_in(names)).to_dicts()))
    diagonal = alt.Chart(alt.Data(values=[{"shared": v, "called": v} for v in (0, 1)])).mark_line(
        color=theme.MUTED[0], strokeDash=[4, 4], strokeWidth=1
    )
    lines = base.mark_line(strokeWidth=2.4, point={"size": 46}).encode(x, y, colour)
    return alt.layer(diagonal.encode(x, y), lines).properties(
        width=300,
        height=300,
        title=_title("Called and true, with controls planted"),
    )


def _recall_chart(rows: pl.DataFrame) -> Any:
    """Recall of the verdict's criterion, one cell a range of firings and of noise."""
    edge = {
        low: f"{low}" + (f"\N{EN DASH}{high - 1}" if high < 10_000 else "+")
        for low, high in pairwise(FIRINGS)
    }
    between = {low: f"{low:.2f}\N{EN DASH}{high:.2f}" for low, high in pairwise(NOISES)}
    values = [
        {
            "firings": edge[int(row["firings"])],
            "noise": between[row["noise"]],
            "recall": row["recall"],
        }
        for row in rows.filter(criterion=VERDICT).drop_nulls("recall").iter_rows(named=True)
    ]
    base = alt.Chart(alt.Data(values=values)).encode(
        alt.X(
            "firings:N",
            sort=list(edge.values()),
            title="tokens on which the feature fires",
            axis=alt.Axis(labelAngle=0),
        ),
        alt.Y("noise:N", sort=list(between.values())[::-1], title="noise of the copy"),
    )
    cells = base.mark_rect().encode(
        alt.Color(
            "recall:Q",
            scale=alt.Scale(domain=[0, 1], range=[theme.NEUTRAL[0], "#0067a5"]),
            legend=None,
        )
    )
    text = base.mark_text(fontSize=12).encode(
        alt.Text("recall:Q", format=".0%"),
        color=alt.condition(
            "datum.recall > 0.7", alt.value(theme.CELL_INK_STRONG[0]), alt.value(theme.CELL_INK[0])
        ),
    )
    return alt.layer(cells, text).properties(
        width=380, height=300, title=_title(f"Found of the features with a partner: {VERDICT}")
    )
