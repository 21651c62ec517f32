"""What do the best correlations vary with?  Their variance by factor, for each model."""

from __future__ import annotations

import altair as alt
import polars as pl

from homolog.analyses.analysis import Analysis
from homolog.analyses.records import StudyRecords
from homolog.charts import theme
from homolog.charts.figure import SHARE_AXIS, Figure, Rows, finish, panels, rounded, tips
from homolog.charts.words import percent
from homolog.record.comparisons import MAIN
from homolog.record.names import listed

FACTORS = {
    "architecture": "the architecture searched",
    "model seed": "the training seed of the model searched",
    "SAE seed": "the seed of the dictionary searched",
    "depth": "the depth of the feature",
    "feature": "the feature itself",
    "residual": "nothing of these",
}


def variance(records: StudyRecords) -> Rows:
    """The shares as measured, by model and in the order of `FACTORS`; unknown factors last."""
    models, factors = list(records.compared), list(FACTORS)
    known = pl.col("model").is_in(models) & pl.col("share").is_finite()
    rows = [
        {
            "panel": f"Features of {row['model']}",
            "model": row["model"],
            "factor": row["factor"],
            "share": rounded(row["share"]),
            "n": row["n"],
        }
        for row in records.variance.filter(known).iter_rows(named=True)
    ]

    def place(row: dict) -> tuple[int, int, str]:
        factor = row["factor"]
        at = factors.index(factor) if factor in factors else len(factors)
        return models.index(row["model"]), at, factor

    return sorted(rows, key=place)


def variance_sentence(rows: Rows) -> str:
    """For each model its largest factors, in words."""
    sentences = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model and row["factor"] != "residual"]
        parts = [
            f"{percent(row['share'])} with {FACTORS.get(row['factor'], row['factor'])}"
            for row in sorted(own, key=lambda row: -row["share"])
        ]
        sentences.append(f"Of {model}\u2019s features: {listed(parts[:3])}.")
    return " ".join(sentences)


def variance_figure(records: StudyRecords) -> Figure | None:
    """What the best correlations vary with."""
    rows = variance(records)
    if not rows:
        return None
    order = list(dict.fromkeys(row["factor"] for row in rows))
    n_models = len({row["panel"] for row in rows})
    y = alt.Y("factor:N", sort=order, title=None, axis=alt.Axis(ticks=False, grid=False))
    # Estimated components can lie a little below 0; the axis then shows it.
    scale = alt.Scale(domain=[min(0.0, *(row["share"] for row in rows)), 1])
    x = alt.X("share:Q", title="share of the variance", axis=SHARE_AXIS, scale=scale)
    tip = tips(("factor", "factor", ""), ("share", "share", ".1%"), ("n", "values", ","))
    colour = theme.comparison_colour(MAIN.name)
    bars = alt.Chart().mark_bar(color=colour, height={"band": 0.62}, cornerRadiusEnd=2)
    text = alt.Chart().mark_text(align="left", dx=5, tooltip=False)
    layers = [
        bars.encode(x, y, tooltip=tip),
        text.encode(x, y, text=alt.Text("share:Q", format=".0%")),
    ]
    chart = panels(layers, rows, height=30 * len(order))
    sentence = variance_sentence(rows)
    return Figure(
        "variance",
        "What does the correlation vary with?",
        "Each feature was looked for in several sets of dictionaries: of the other models, of the "
        "same architecture trained from another seed, and from other SAE seeds. The bars split the "
        "differences between all these best correlations into what goes with each factor, the rest "
        f"being the residual. {sentence}",
        f"Bars of the shares of variance. {sentence}",
        finish(chart, rows, axes=96 if n_models > 1 else 110),
    )


ANALYSIS = Analysis(
    "variance",
    page="study",
    chapter="Chance",
    figures=lambda records: [variance_figure(records)],
)
