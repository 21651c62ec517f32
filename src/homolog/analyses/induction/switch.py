"""Charts of what patches change, with a switch between the metrics; files show the first."""

from __future__ import annotations

from typing import Any

import altair as alt

from homolog.analyses.induction.records import by_change, grouped
from homolog.analyses.induction.words import METRIC_WORDS, SHOWN_METRICS
from homolog.charts import theme
from homolog.charts.figure import Figure, Rows, finish, panels, tips
from homolog.charts.words import number
from homolog.record.circuits import LOGIT_DIFFERENCE

SHOWN = "shown"  # the metric on show, a parameter of the figure
ZERO = alt.Chart().mark_rule(tooltip=False).encode(y=alt.datum(0))
CHANGE = alt.Y("value:Q", title="change", axis=alt.Axis(tickCount=5))


def switched(
    name: str,
    title: str,
    read: str,
    alt_text: str,
    *,
    layers: list[Any],
    rows: Rows,
    height: int,
    place: str = "sender",
) -> Figure:
    """A figure of layers that draw the fields value, low and high: of the metric on show.

    place: field of the rows that names where they were patched.
    """
    labels = [METRIC_WORDS[metric] for metric in SHOWN_METRICS]
    radio = alt.binding_radio(options=list(SHOWN_METRICS), labels=labels, name="Show: ")
    chart = panels(layers, rows, height=height).transform_calculate(
        value=f"datum[{SHOWN}]", low=f"datum[{SHOWN} + '_lo']", high=f"datum[{SHOWN} + '_hi']"
    )
    chart = chart.add_params(alt.param(SHOWN, value=SHOWN_METRICS[0], bind=radio))
    return Figure(
        name,
        title,
        f"{read} The switch shows the same patches by another metric.",
        f"{alt_text} Largest drop: {_strongest(rows, place)}.",
        finish(chart, rows, axes=58),
    )


def _strongest(rows: Rows, place: str) -> str:
    """The largest drop of each panel."""
    largest = [(panel, by_change(own)[0]) for (panel,), own in grouped(rows, "panel").items()]
    return "; ".join(
        f"{panel}: {row[place]} {number(row[LOGIT_DIFFERENCE])}"
        for panel, row in largest
        if row[LOGIT_DIFFERENCE] is not None
    )


def change_tips(*place: tuple[str, str, str]) -> list[alt.Tooltip]:
    """What a mark says: where it is, then every metric."""
    metrics = [(metric, METRIC_WORDS[metric], "+.3f") for metric in SHOWN_METRICS]
    return tips(*place, *metrics, ("low", "shown, from", "+.3f"), ("high", "to", "+.3f"))


def whiskers(*encodings: Any) -> alt.Chart:
    """The intervals of bars or points, in the place that the encodings give."""
    rule = alt.Chart().mark_rule(strokeWidth=1.4, color=theme.INK[0], tooltip=False)
    return rule.encode(*encodings, alt.Y("low:Q"), alt.Y2("high:Q"))
