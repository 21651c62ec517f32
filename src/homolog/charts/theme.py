"""Colours and type of every chart, for light and dark.

The hues are Okabe and Ito's, which stay apart for the common kinds of colour blindness, darkened or
lightened until each has a contrast of at least 3 to 1 with its background; position or dashes
repeat what a colour says. A chart is made once, in the light colours; in the dark the page's script
swaps them one by one (`dark_colours`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homolog.record import comparisons
from homolog.record.circuits import CARRIER, COPIER, MATCHER

MODEL_COLOURS = (
    ("#31459b", "#93a8ff"),
    ("#b0480f", "#ff9a66"),
    ("#4f7a28", "#a4d271"),
    ("#7b4a9e", "#cda0ee"),
)

# Of the parts of a circuit: colours of comparisons, which never stand in the same figure.
ROLE_COLOURS: Mapping[str, tuple[str, str]] = {
    CARRIER: comparisons.colour_of(comparisons.RANDOM_MODEL.name),
    MATCHER: comparisons.colour_of(comparisons.MAIN.name),
    COPIER: comparisons.colour_of(comparisons.MODEL_SEED.name),
}
# A patch that hurts, in heatmaps; its opposite; and between them nothing.
WORSE = ("#b3362f", "#ff8f86")
BETTER = ("#2b6cb0", "#7fb6f2")
NEUTRAL = ("#f0f1f4", "#262b32")
CELL_INK = ("#1e2229", "#f0f2f4")  # on neutral cells
CELL_INK_STRONG = ("#fefefe", "#101113")  # on strong ones

EXPLAINED = ("#8a929d", "#79838f")  # what controls explain, beside what is shared
INK = ("#1d2129", "#e7e9ec")
MUTED = ("#5a616c", "#a4abb6")
GRID = ("#e4e6ea", "#333941")
BACKGROUND = ("#ffffff", "#16191e")
CELL_MARK = ("#111111", "#111110")

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def comparison_colour(name: str) -> str:
    """The light colour of a comparison."""
    return comparisons.colour_of(name)[0]


def config() -> dict[str, Any]:
    """The Vega-Lite config of every chart, in the light colours."""
    ink, muted, grid = INK[0], MUTED[0], GRID[0]
    return {
        "background": BACKGROUND[0],
        "font": FONT,
        "padding": 6,
        "view": {"stroke": None},
        "axis": {
            "labelColor": muted,
            "titleColor": ink,
            "labelFontSize": 12,
            "titleFontSize": 12.5,
            "titleFontWeight": 500,
            "gridColor": grid,
            "domainColor": muted,
            "tickColor": grid,
            "labelPadding": 5,
            "titlePadding": 9,
            "labelLimit": 190,
            "labelSeparation": 5,
            "domain": False,
        },
        "header": {
            "labelColor": ink,
            "labelFontSize": 13.5,
            "labelFontWeight": 600,
            "labelAnchor": "start",
            "labelPadding": 8,
            "labelLimit": 420,
            "title": None,
        },
        "legend": {
            "orient": "top",
            "labelColor": ink,
            "titleColor": muted,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": 500,
            "symbolStrokeWidth": 3,
            "symbolSize": 90,
            "labelLimit": 260,
            "columnPadding": 18,
            "rowPadding": 4,
            "padding": 0,
            "offset": 14,
            "layout": {"top": {"anchor": "start", "direction": "horizontal", "margin": 30}},
        },
        "text": {"color": ink, "fontSize": 11.5},
        "rule": {"color": muted},
        "point": {"filled": True},
        "range": {"heatmap": {"scheme": "viridis"}},
    }


def dark_colours() -> dict[str, str]:
    """The dark counterpart of every light colour of a chart, with which the page's script swaps."""
    pairs = (
        *(c.colour for c in comparisons.COMPARISONS if c.colour is not None),
        *comparisons.SPARE_COLOURS,
        *MODEL_COLOURS,
        *(WORSE, BETTER, NEUTRAL, CELL_INK, CELL_INK_STRONG),
        *(EXPLAINED, INK, MUTED, GRID, BACKGROUND),
    )
    return dict(pairs)
