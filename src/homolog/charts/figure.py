"""What all charts share: one Vega-Lite grammar for interactive figures, SVG and PNG files.

A chart is made of layers without data, panels that repeat them, and `finish`, which adds a few
aggregated rows, the theme and, in `usermeta`, what the page's script needs to fit it to a screen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import altair as alt

from homolog.charts import theme
from homolog.record.comparisons import comparison_of

PANEL_WIDTH = 330
UNIT = alt.Scale(domain=[0, 1])
SHARE_AXIS = alt.Axis(format="%", tickCount=5)

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Figure:
    """A figure and the words around it.

    name: of its files.  read: one sentence on how to read it.  alt: the text for those who cannot
    see it.  spec: its Vega-Lite specification in the light colours.
    """

    name: str
    title: str
    read: str
    alt: str
    spec: dict[str, Any]


def r_axis(**more: Any) -> alt.Axis:
    """The axis of best correlations."""
    return alt.Axis(title="correlation of the best partner", format=".1f", tickCount=6, **more)


R_AXIS = r_axis()


def finish(chart: Any, data: Rows, *, axes: int, each: bool = False) -> dict[str, Any]:
    """The specification with its data, colours and layout hints.

    axes: pixels that axis labels take left of the panels, or left of each panel where `each`.
    """
    spec = chart.to_dict(validate=True)
    spec.pop("config", None)
    for layer in spec.get("layer", []):
        layer.pop("data", None)  # altair's placeholder would hide the rows above it
    spec["data"] = {"values": data}
    spec["config"] = theme.config()
    spec["usermeta"] = {"axes": axes, "each": each}
    return spec


def rounded(value: float | None) -> float | None:
    """Four digits after the point, so that pages stay small; None where undefined."""
    return None if value is None or not math.isfinite(value) else round(float(value), 4)


def linked(rows: Rows) -> tuple[dict[str, Any], dict[str, Any]]:
    """(properties of a mark, channels) that lead where the rows have a `link` to."""
    if not any("link" in row for row in rows):
        return {}, {}
    return {"cursor": "pointer"}, {"href": alt.Href("link:N")}


def panels(
    layers: list[Any], data: Rows, *, height: int, width: int = PANEL_WIDTH, columns: int = 2
) -> alt.FacetChart:
    """The layers once for each `panel` in the data, side by side; "|" breaks a heading."""
    heading = alt.Header(labelExpr="split(datum.value, '|')")
    order = list(dict.fromkeys(row["panel"] for row in data))
    return (
        alt.layer(*layers)
        .properties(width=width, height=height)
        .facet(
            facet=alt.Facet("panel:N", sort=order, title=None, header=heading),
            columns=min(columns, len(order)),
            spacing=28,
            data=alt.NamedData(name="rows"),
        )
    )


def tips(*fields: tuple[str, str, str]) -> list[alt.Tooltip]:
    """Tooltip lines from (field, title, number format or an empty text)."""
    return [
        alt.Tooltip(field, type="quantitative", title=title, format=form)
        if form
        else alt.Tooltip(field, type="nominal", title=title)
        for field, title, form in fields
    ]


def stroke_legend(title: str | None, columns: int, **more: Any) -> alt.Legend:
    """A legend of line samples long enough to show their dashes."""
    return alt.Legend(title=title, symbolType="stroke", symbolSize=420, columns=columns, **more)


def comparison_scale(names: list[str]) -> alt.Scale:
    """The colours of these comparisons, the same in every figure."""
    return alt.Scale(domain=names, range=[theme.comparison_colour(name) for name in names])


def comparison_labels(names: list[str]) -> str:
    """A Vega expression that turns names of comparisons into words, in a legend."""
    words = [(name, comparison_of(name).plain) for name in names]
    known = [f"datum.label == '{quoted(name)}' ? '{quoted(plain)}'" for name, plain in words]
    return " : ".join([*known, "datum.label"])


def axis_lookup(labels: list[str]) -> str:
    """A Vega expression that turns positions 0, 1, … into two-line labels."""
    texts = ", ".join(f"'{quoted(label)}'" for label in labels)
    return f"split([{texts}][datum.value], '|')"


def quoted(text: str) -> str:
    """Text as it stands between single quotes in a Vega expression."""
    return text.replace("\\", "\\\\").replace("'", "\\'")


def seen(rows: Rows) -> list[str]:
    """The comparisons in the rows, in order of appearance."""
    return list(dict.fromkeys(row["comparison"] for row in rows))


def significant(value: float | None) -> float | None:
    """Four significant digits, for numbers of any size; None where undefined."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")
