"""The figure: by model, how much of what is copied and matched is written at each offset from its
token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from homolog.analyses.induction.words import offset_words
from homolog.charts import theme
from homolog.circuits.off_by_one import OFFSETS
from homolog.record.circuits import COPIED, MATCHED, SHIFT_PREFIX
from homolog.report.export import svg_of


def label(row: dict[str, Any]) -> str:
    """A model in words."""
    taps = "1 tap" if row["kernel"] == 1 else f"{row['kernel']} taps"
    start = "" if row["start"] == "usual" else f", {row['start']} start"
    return f"{taps}, {row['blocks']} blocks, state {row['state']}{start}, seed {row['seed']}"


def save(table: pl.DataFrame, folder: Path) -> None:
    """off-by-one.svg, and the rows as off-by-one.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    table.write_csv(folder / "off-by-one.csv", float_precision=4)
    spec = chart(table).to_dict()
    spec["config"] = theme.config()
    svg = svg_of(spec)
    (folder / "off-by-one.svg").write_text(svg, "utf-8")


def chart(table: pl.DataFrame) -> Any:
    """A row a model, a cell an offset; a ring where the convolution alone says it would be."""
    ordered = table.sort("kernel", "blocks", "state", pl.col("start") != "usual", "seed")
    names = [label(row) for row in ordered.iter_rows(named=True)]
    grids = [_grid(ordered, names, token, first=token == COPIED) for token in SHIFT_PREFIX]
    return alt.hconcat(*grids, _verdicts(ordered, names), spacing=14).resolve_scale(y="shared")


def _grid(ordered: pl.DataFrame, names: list[str], token: str, *, first: bool) -> Any:
    prefix, cells = SHIFT_PREFIX[token], []
    for row in ordered.iter_rows(named=True):
        if row.get("verdict") is None:
            continue
        predicted = [row[f"{prefix}predicted_share_{offset}"] for offset in OFFSETS]
        for offset, share in zip(OFFSETS, predicted, strict=True):
            cells.append(
                {
                    "model": label(row),
                    "offset": offset_words(offset, token),
                    "share": max(0.0, row[f"{prefix}share_{offset}"]),
                    "predicted": share == max(predicted),
                }
            )
    axis = alt.Axis(labelLimit=260, minExtent=190, ticks=False) if first else None
    y = alt.Y("model:N", sort=names, title=None, axis=axis)
    columns = [offset_words(offset, token) for offset in OFFSETS]
    said = {COPIED: "B, which is copied, is written at", MATCHED: "A, which is matched, at"}[token]
    x = alt.X("offset:N", sort=columns, title=said, axis=alt.Axis(labelAngle=0, orient="top"))
    base = alt.Chart(alt.Data(values=cells)).encode(x, y)
    hue = alt.Scale(domain=[0, 1], range=[theme.NEUTRAL[0], theme.BETTER[0]])
    ring = base.transform_filter("datum.predicted").mark_rect(
        filled=False, stroke=theme.INK[0], strokeWidth=1.6
    )
    strong = alt.condition(
        "datum.share > 0.6", alt.value(theme.CELL_INK_STRONG[0]), alt.value(theme.CELL_INK[0])
    )
    return alt.layer(
        base.mark_rect().encode(alt.Color("share:Q", scale=hue, legend=None)),
        ring,
        base.mark_text(fontSize=11).encode(alt.Text("share:Q", format=".0%"), color=strong),
    ).properties(width=270, height=alt.Step(20))


def _verdicts(ordered: pl.DataFrame, names: list[str]) -> Any:
    rows = [
        {
            "model": label(row),
            "said": f"{row.get('verdict') or 'has not learnt it'} ({row['accuracy']:.0%} right)",
        }
        for row in ordered.iter_rows(named=True)
    ]
    y = alt.Y("model:N", sort=names, title=None, axis=None)
    text = alt.Chart(alt.Data(values=rows)).mark_text(align="left", fontSize=11, color=theme.INK[0])
    placed = text.encode(y, alt.Text("said:N"), x=alt.value(4))
    return placed.properties(width=190, height=alt.Step(20))
