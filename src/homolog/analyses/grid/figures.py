"""The verdict over L0: a line for each kind and width, both directions side by side."""

from __future__ import annotations

from typing import Any

import altair as alt

from homolog.analyses.grid.records import GridRecords
from homolog.charts import theme
from homolog.charts.figure import (
    SHARE_AXIS,
    Figure,
    Rows,
    finish,
    panels,
    rounded,
    stroke_legend,
    tips,
)
from homolog.charts.words import is_number, percent
from homolog.record.comparisons import SPARE_COLOURS

COLOURS = [light for light, _ in (*theme.MODEL_COLOURS, *SPARE_COLOURS)]
"""Of kinds of dictionary; they stand where models stand in other figures, never beside them."""
DASHES = [[1, 0], [7, 4], [2, 3], [10, 3, 2, 3]]
"""Of widths."""
FAINT = 0.35
WITHHELD = "M-1,-1L1,1M1,-1L-1,1"


def verdicts_over_l0(records: GridRecords) -> Rows:
    """One row per cell and direction; share None where the verdict was withheld."""
    rows: Rows = []
    for row in records.cells.iter_rows(named=True):
        width = f"{row['d_sae']:,} features"
        rows.append(
            {
                "panel": f"{row['model']} in {row['best_model']}",
                "cell": row["cell"],
                "kind": row["kind"],
                "width": width,
                "line": f"{row['kind']}, {width}",
                "l0": rounded(row["l0"]),
                "variance": rounded(row["explained_variance"]),
                "share": rounded(row["share"]) if row["given"] else None,
                "low": rounded(row["lo"]) if row["given"] else None,
                "high": rounded(row["hi"]) if row["given"] else None,
                "ceiling": rounded(row["ceiling"]) if row["given"] else None,
                "reason": row["reason"],
            }
        )
    return rows


def grid_figure(records: GridRecords) -> Figure | None:
    """The share of features with a homolog over L0, and its ceiling."""
    rows = verdicts_over_l0(records)
    if not rows:
        return None
    said = "; ".join(
        f"{row['panel']}, {row['cell']}: {percent(row['share']) if row['share'] else 'no verdict'}"
        for row in rows
    )
    return Figure(
        "grid",
        "Does the verdict depend on the dictionaries?",
        "Each point is a study with dictionaries of its own: the share of features with a homolog, "
        "with its 95% interval, over the number of features active on a token. Faint lines are the "
        "ceilings, a model looked for in itself through second dictionaries; crosses below are "
        "cells without a verdict. Where lines lie within each other's intervals and are flat, the "
        "verdict does not hang on the kind, the width or the sparsity.",
        f"Lines of the share of homologs over L0. {said}.",
        finish(panels(_layers(rows), rows, height=300), rows, axes=64),
    )


def _layers(rows: Rows) -> list[Any]:
    kinds, widths = (list(dict.fromkeys(row[key] for row in rows)) for key in ("kind", "width"))
    high = max([0.01, *(row[key] or 0 for row in rows for key in ("high", "ceiling", "share"))])
    l0 = [row["l0"] for row in rows if is_number(row["l0"]) and row["l0"] > 0] or [1.0]
    wide = alt.Scale(type="log", domain=[min(l0) / 1.15, max(l0) * 1.15], nice=False)
    across = alt.Axis(tickCount=6, format="~g", grid=False, labelOverlap=True)
    x = alt.X("l0:Q", title="features active on a token (L0)", scale=wide, axis=across)
    shares = alt.Scale(domain=[0, high], nice=True)
    y = alt.Y("share:Q", title="share with a homolog", axis=SHARE_AXIS, scale=shares)
    of_kind = _cycled(kinds, COLOURS)
    legend = stroke_legend(None, 4, symbolOpacity=1)
    colour = alt.Color("kind:N", scale=of_kind, legend=legend)
    dash = alt.StrokeDash("width:N", scale=_cycled(widths, DASHES), legend=legend)
    tip = tips(
        ("cell", "cell", ""),
        ("share", "share", ".1%"),
        ("low", "from", ".1%"),
        ("high", "to", ".1%"),
        ("ceiling", "ceiling", ".1%"),
        ("l0", "L0", ".1f"),
        ("variance", "explained variance", ".1%"),
        ("reason", "withheld", ""),
    )
    given = alt.Chart().transform_filter("datum.share !== null")
    withheld = alt.Chart().transform_filter("datum.share === null")
    above = alt.Y("ceiling:Q", title="share with a homolog", axis=SHARE_AXIS, scale=shares)
    low, top = alt.Y("low:Q", scale=shares), alt.Y2("high:Q")
    cross = withheld.mark_point(shape=WITHHELD, size=60, opacity=1, filled=False, strokeWidth=2)
    return [
        given.mark_line(strokeWidth=1.5, opacity=FAINT).encode(
            x, above, colour, dash, detail="line:N"
        ),
        given.mark_point(size=16, opacity=FAINT).encode(x, above, colour, tooltip=tip),
        given.mark_rule(strokeWidth=4, opacity=FAINT).encode(x, low, top, colour, tooltip=tip),
        given.mark_line(strokeWidth=2).encode(x, y, colour, dash, detail="line:N"),
        given.mark_point(size=55, opacity=1).encode(x, y, colour, tooltip=tip),
        cross.encode(x, alt.YDatum(0), colour, tooltip=tip),
    ]


def _cycled(names: list[str], values: list[Any]) -> alt.Scale:
    """A scale that gives names their values in order, from the first again where they run out."""
    return alt.Scale(domain=names, range=[values[i % len(values)] for i in range(len(names))])
