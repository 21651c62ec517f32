"""Heatmaps of all pairs of blocks: those of A upward, those of B across."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import altair as alt

from homolog.charts.figure import Rows, linked, panels

MOST_NUMBERS = 12  # blocks, above which cells are too small for their value


@dataclass(frozen=True)
class BlockMap:
    """Rows with `a` and `b`, the numbers of the blocks, and where they lead, as `link`.

    models: names of A and B.  value: column that cells show in numbers.
    """

    rows: Rows
    models: tuple[str, str]
    value: str

    def cells(self, colour: alt.Color, tip: list[alt.Tooltip]) -> alt.Chart:
        """A coloured cell for each row."""
        mark, link = linked(self.rows)
        return alt.Chart().mark_rect(**mark).encode(*self._axes(), colour, tooltip=tip, **link)

    def outlines(self, stroke: str, which: str) -> alt.Chart:
        """Outlines of the cells for which the expression `which` holds."""
        mark, link = linked(self.rows)
        outline = alt.Chart().mark_rect(fillOpacity=0, stroke=stroke, strokeWidth=2, **mark)
        return outline.transform_filter(which).encode(*self._axes(), **link)

    def numbers(self, bright: str) -> list[alt.Chart]:
        """The values, where they fit; dark where the expression `bright` holds."""
        if max(len({row[key] for row in self.rows}) for key in "ab") > MOST_NUMBERS:
            return []
        mark, link = linked(self.rows)
        ink = alt.condition(bright, alt.value("#101010"), alt.value("#fdfdfd"))
        text = alt.Chart().mark_text(fontSize=10.5, tooltip=False, **mark)
        value = alt.Text(f"{self.value}:Q", format=".2f")
        return [text.encode(*self._axes(), text=value, color=ink, **link)]

    def drawn(self, layers: list[Any]) -> alt.FacetChart:
        """The layers in each panel of the rows."""
        n_upward = len({row["a"] for row in self.rows})
        return panels(layers, self.rows, height=min(420, max(150, 38 * n_upward)))

    def _axes(self) -> tuple[alt.X, alt.Y]:
        a, b = (f"block of {model}" for model in self.models)
        band = alt.Scale(paddingInner=0.08, paddingOuter=0.04)
        across = alt.Axis(labelAngle=0, labelOverlap=True, grid=False, ticks=False)
        upward = alt.Axis(labelOverlap=True, grid=False, ticks=False)
        x = alt.X("b:O", title=b, scale=band, axis=across)
        return x, alt.Y("a:O", title=a, sort="descending", scale=band, axis=upward)
