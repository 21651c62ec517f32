"""The nearest neighbours that layers have in common, and similarities beside what chance gives."""

from __future__ import annotations

import altair as alt
import polars as pl

from homolog.analyses.records import PairRecords
from homolog.charts import theme
from homolog.charts.block_map import BlockMap
from homolog.charts.figure import (
    Figure,
    Rows,
    comparison_labels,
    comparison_scale,
    finish,
    panels,
    rounded,
    seen,
    tips,
)
from homolog.charts.words import chance, number
from homolog.record.comparisons import MAIN, shown
from homolog.record.tables import SPACE_MODELS, SPACE_TESTS
from homolog.record.tables.matching import SPACE_ALPHA

MEASURES = {"cka": "CKA", "svcca": "SVCCA", "mutual_knn": "Mutual nearest neighbours"}
"""By their names in the tables."""
NEAREST = "mutual_knn"


def _main(records: PairRecords) -> dict[str, object]:
    a, b = records.pair
    return {"comparison": MAIN.name, "model": a, "best_model": b}


def nearest(records: PairRecords) -> Rows:
    """Nearest neighbours in common by pair of blocks; `diagonal`: of about the same depth."""
    rows = records.table(SPACE_TESTS).filter(measure=NEAREST, **_main(records))
    rows = rows.filter(pl.col("value").is_finite()).sort("layer", "best_layer")
    return [
        {
            "panel": MEASURES[NEAREST],
            "a": row["layer"],
            "b": row["best_layer"],
            **{key: rounded(row[key]) for key in ("value", "null_mean", "excess", "p_max")},
            "diagonal": row["diagonal"],
        }
        for row in rows.iter_rows(named=True)
    ]


def nearest_figure(records: PairRecords) -> Figure | None:
    """The matrix of nearest neighbours in common, with the diagonal that is tested."""
    rows = nearest(records)
    if not rows:
        return None
    a, b = records.pair
    found = records.table(SPACE_MODELS).filter(measure=NEAREST, **_main(records))
    said = "".join(
        f" On the outlined diagonal {number(row['diagonal'])} on average, elsewhere "
        f"{number(row['elsewhere'])}; layers in random order have so strong a diagonal with p "
        f"{chance(row['diagonal_p'])}."
        for row in found.iter_rows(named=True)
    )
    blocks = BlockMap(rows, records.pair, "value")
    middle = (min(row["value"] for row in rows) + max(row["value"] for row in rows)) / 2
    colour = alt.Color("value:Q", title="in common", scale=alt.Scale(scheme="viridis"))
    tip = tips(
        ("a", a, ""),
        ("b", b, ""),
        ("value", "in common", ".3f"),
        ("null_mean", "by chance", ".3f"),
        ("p_max", "p of the search", ".3f"),
    )
    layers = [blocks.cells(colour, tip), blocks.outlines(theme.CELL_MARK[0], "datum.diagonal")]
    return Figure(
        "neighbours",
        "Do the same tokens lie near each other?",
        "The share of the ten nearest tokens of other documents, by cosine, that a token has in "
        f"both blocks.{said}",
        f"A heatmap of the nearest neighbours that each block of {a} has in common with each of "
        f"{b}.{said}",
        finish(blocks.drawn([*layers, *blocks.numbers(f"datum.value > {middle}")]), rows, axes=58),
    )


def beside_null(records: PairRecords) -> Rows:
    """For each block of A, in every comparison and measure, the block with the highest excess."""
    rows = records.table(SPACE_TESTS)
    rows = rows.filter(pl.col("excess").is_finite(), model=records.pair[0])
    keys = ["measure", "comparison", "layer"]
    best = rows.sort(*keys, "excess", descending=[False] * 3 + [True]).group_by(
        keys, maintain_order=True
    )
    names = ("value", "null_mean", "null_high", "excess", "p_max")
    made = [
        {"panel": MEASURES[row["measure"]], "comparison": row["comparison"]}
        | {"layer": row["layer"], "partner": f"{row['best_model']}, block {row['best_layer']}"}
        | {name: rounded(row[name]) for name in names}
        for row in best.first().iter_rows(named=True)
    ]
    order, panel = shown(seen(made)), list(MEASURES.values())
    return sorted(made, key=lambda r: (panel.index(r["panel"]), order.index(r["comparison"])))


def null_figure(records: PairRecords) -> Figure | None:
    """The most alike blocks, and what chance gives for each such pair."""
    rows = beside_null(records)
    if not rows:
        return None
    a, _ = records.pair
    names = shown(seen(rows))
    offset = alt.XOffset("comparison:N", sort=names)
    x = alt.X("layer:O", title=f"block of {a}", axis=alt.Axis(labelAngle=0, grid=False))
    legend = alt.Legend(title=None, columns=2, labelExpr=comparison_labels(names), labelLimit=260)
    colour = alt.Color("comparison:N", scale=comparison_scale(names), sort=names, legend=legend)
    tip = tips(
        ("partner", "most alike", ""),
        ("value", "similarity", ".3f"),
        ("null_mean", "by chance", ".3f"),
        ("null_high", "at most, in 95 %", ".3f"),
        ("excess", "excess", ".3f"),
        ("p_max", "p of the search", ".3f"),
    )
    y = alt.Y("value:Q", title="similarity", scale=alt.Scale(domainMin=0))
    bar = alt.Chart().mark_bar(size=5, opacity=0.35, tooltip=False)
    null = bar.encode(
        x, alt.Y("null_mean:Q", title="similarity"), alt.Y2("null_high:Q"), offset, colour
    )
    points = alt.Chart().mark_point(size=45, opacity=1).encode(x, y, offset, colour, tooltip=tip)
    called = sum(row["p_max"] <= SPACE_ALPHA for row in rows if row["comparison"] == MAIN.name)
    total = sum(row["comparison"] == MAIN.name for row in rows)
    said = f"Beyond chance, the search included, are {called} of {total} in the main comparison."
    return Figure(
        "spaces-null",
        "Are they more alike than chance?",
        "For each block the most alike block there, by excess over chance; bars reach from the "
        "mean to the 95 % quantile of that pair with the other model\u2019s documents in random "
        "order. "
        f"{said}",
        f"Points of the similarity of each block of {a} with the most alike block, in each "
        f"comparison, above bars of what chance gives. {said}",
        finish(panels([null, points], rows, height=230), rows, axes=58),
    )
