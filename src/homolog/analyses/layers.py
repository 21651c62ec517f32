"""Which blocks match which: the mean best correlation of every pair of blocks."""

from __future__ import annotations

import altair as alt
import polars as pl

from homolog.analyses.analysis import Analysis
from homolog.analyses.records import PairRecords
from homolog.charts import theme
from homolog.charts.block_map import BlockMap
from homolog.charts.figure import Figure, Rows, finish, rounded, tips
from homolog.charts.words import number
from homolog.record.comparisons import MAIN


def layer_means(records: PairRecords) -> Rows:
    """Mean of every pair of blocks in the main comparison, both directions on the same axes.

    `best` marks, for each block whose features are looked for, the partner block of highest mean.
    """
    rows: Rows = []
    for side in "AB":
        main = records.layers.filter(comparison=MAIN.name, side=side).sort("layer", "best_layer")
        known = main.filter(pl.col("mean").is_finite())
        known = known.sort("mean", descending=True, maintain_order=True)
        first = known.unique("layer", keep="first", maintain_order=True)
        best = set(first.select("layer", "best_layer").iter_rows())
        for row in main.iter_rows(named=True):
            own, partner = row["layer"], row["best_layer"]
            a, b = (own, partner) if side == "A" else (partner, own)
            rows.append(
                {
                    "panel": records.panel(side),
                    "a": a,
                    "b": b,
                    "mean": rounded(row["mean"]),
                    "best": (own, partner) in best,
                    "n": row["n_defined"],
                    **records.layer_link(side, layer=own, to=partner),
                }
            )
    return rows


def layer_figure(records: PairRecords) -> Figure | None:
    """Mean maximum correlation of every layer pair, both directions."""
    rows = layer_means(records)
    if not rows:
        return None
    a, b = records.pair
    blocks = BlockMap(rows, records.pair, "mean")
    means = [row["mean"] for row in rows if row["mean"] is not None]
    low, high = (min(means), max(means)) if means else (0.0, 1.0)
    title = "mean best correlation"
    legend = alt.Legend(title=title, format=".2f", gradientLength=180, tickCount=3)
    scale = alt.Scale(scheme="viridis", domain=[low, high])
    tip = tips(("a", a, ""), ("b", b, ""), ("mean", "mean", ".3f"), ("n", "features", ","))
    layers = [
        blocks.cells(alt.Color("mean:Q", scale=scale, legend=legend), tip),
        blocks.outlines(theme.CELL_MARK[0], "datum.best"),
        *blocks.numbers(f"datum.mean > {low + 0.55 * (high - low):.4f}"),
    ]
    top = "; ".join(
        f"{row['panel']}, block {row['a']} with block {row['b']}: {number(row['mean'])}"
        for row in rows
        if row["best"]
    )
    return Figure(
        "layers",
        "Which blocks match which?",
        "Each cell is the mean over the features of one block of their best correlation within "
        "one block of the other model; outlined is the best block for each row on the left "
        f"(features of {a}) and for each column on the right (features of {b}).",
        f"Heatmaps of the mean best correlation of every pair of blocks. Best: {top}.",
        finish(blocks.drawn(layers), rows, axes=58),
    )


ANALYSIS = Analysis(
    "layers",
    chapter="Depth",
    figures=lambda records: [layer_figure(records)],
    template='{{ figure("layers") }}',
)
