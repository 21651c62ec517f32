"""Off by one: does the position of B carry what is copied and what is matched, or the next one?"""

from __future__ import annotations

import altair as alt
import polars as pl

from homolog.analyses.analysis import Analysis
from homolog.analyses.induction.figures import ZERO, whiskers
from homolog.analyses.induction.records import CircuitRecords
from homolog.analyses.induction.words import interval_words, offset_words, verdict_words
from homolog.charts import theme
from homolog.charts.figure import SHARE_AXIS, Figure, Rows, finish, panels, significant, tips
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import percent
from homolog.record.circuits import COPIED, REPLACED
from homolog.record.comparisons import MAIN, NEURONS
from homolog.record.tables import OFFSETS

CARRIES = 0.1  # of a model's whole drop: what a place must carry for a panel of its own
MOST_PLACES = 4


def offset_profiles(records: CircuitRecords, token: str = COPIED) -> Rows:
    """One row per offset from a token, for the places that carry most of each model's drop.

    share, low, high, null_low, null_high, predicted (None where nothing is): of the place's whole
    drop, the sum of what is above zero.
    """
    drop = pl.col("effect").clip(0).sum()
    rows: Rows = []
    for model in records.able:
        own = records.table(OFFSETS).filter(pl.col("token").fill_null(COPIED) == token, model=model)
        whole = own.select(drop).item()
        places = own.group_by("place", maintain_order=True).agg(drop.alias("drop"))
        places = places.filter(pl.col("drop") > 0, pl.col("drop") >= CARRIES * whole)
        places = places.sort("drop", descending=True, maintain_order=True).head(MOST_PLACES)
        for place, total in places.iter_rows():
            profile = (
                own.filter(place=place)
                .sort("offset")
                .select(
                    "offset",
                    "effect",
                    share=pl.col("effect") / total,
                    low=pl.col("effect_lo") / total,
                    high=pl.col("effect_hi") / total,
                    null_low=pl.col("null_lo") / total,
                    null_high=pl.col("null_hi") / total,
                    predicted="predicted_share",
                    of_model=pl.lit(total / whole),
                )
            )
            rows += [
                {"panel": f"{model}: {_place_words(place)}", "offset": row.pop("offset")}
                | {name: significant(value) for name, value in row.items()}
                for row in profile.iter_rows(named=True)
            ]
    return rows


def _place_words(place: str) -> str:
    """A place of the test: "writes of block 5" for "write.5", "what head 2.3 reads" for "z.2.3"."""
    kind, _, where = place.partition(".")
    return f"writes of block {where}" if kind == "write" else f"what head {where} reads"


def offset_figure(records: CircuitRecords, token: str) -> Figure | None:
    """The test of each model that does the task, on one of the two tokens."""
    rows = offset_profiles(records, token)
    if not rows:
        return None
    predicted = any(row["predicted"] is not None for row in rows)
    told = [shift for model in records.able for shift in records.shifts(model)]
    said = "; ".join(
        f"{shift['model']}: {verdict_words(shift)}" for shift in told if shift["token"] == token
    )
    copied = token == COPIED
    name, title, where = (
        ("offsets", "Off by one?", "after B")
        if copied
        else ("offsets-matched", "Is what is matched off by one?", "after A (B stands at A+1)")
    )
    return Figure(
        name,
        title,
        f"Which position carries {token}? Each bar patches one position {where}, in prompts with "
        f"another {token}, in the blocks (or the head) that carry most of the drop; the grey band "
        "is the same around a token that nothing depends on."
        + (
            " Diamonds are what the convolution\u2019s weights alone would bring."
            if predicted
            else ""
        ),
        f"Bars of the share of the drop of the logit difference by offset from {token}. {said}.",
        finish(panels(_layers(predicted, token), rows, height=190), rows, axes=58),
    )


def _layers(predicted: bool, token: str) -> list[alt.Chart]:
    """Bars with their intervals, the band of the null, and diamonds of the prediction."""
    label = f"datum.value == 0 ? '{token}' : '{token}' + format(datum.value, '+d')"
    axis = alt.Axis(labelAngle=0, grid=False, ticks=False, labelExpr=label)
    x = alt.X("offset:O", title=f"offset from {token}", axis=axis)
    y = alt.Y("share:Q", title="share of the drop", axis=SHARE_AXIS)
    hues = {
        "measured": theme.comparison_colour(MAIN.name),
        "null: around an unrelated token": theme.MUTED[0],
        "predicted by the convolution alone": theme.comparison_colour(NEURONS.name),
    }
    measured, null, guess = hues
    names = list(hues) if predicted else [measured, null]
    scale = alt.Scale(domain=names, range=[hues[name] for name in names])
    colour = alt.Color("series:N", scale=scale, legend=alt.Legend(title=None, columns=3))
    tip = tips(
        ("offset", "offset", ""),
        ("effect", "drop of the logit difference", ".3f"),
        ("share", "share of the drop", ".1%"),
        ("predicted", "predicted share", ".1%"),
        ("of_model", "of the model\u2019s whole drop", ".0%"),
    )

    def series(name: str) -> alt.Chart:
        return alt.Chart().transform_calculate(series=f"'{name}'")

    bars = series(measured).mark_bar(opacity=0.85).encode(x, y, colour, tooltip=tip)
    band = series(null).mark_bar(opacity=0.55, tooltip=False)
    diamonds = series(guess).transform_filter("isValid(datum.predicted)")
    diamonds = diamonds.mark_point(shape="diamond", size=75, opacity=1)
    return [
        ZERO,
        bars,
        whiskers(x),
        band.encode(x, alt.Y("null_low:Q"), alt.Y2("null_high:Q"), colour),
        diamonds.encode(x, alt.Y("predicted:Q"), colour, tooltip=tip),
    ]


def offset_table(records: CircuitRecords) -> ShownTable:
    """The verdicts."""
    cells: Cells = {
        "Model": lambda row: row["model"],
        "Verdict": verdict_words,
        "Certainty": lambda row: percent(row["certainty"]),
        "Largest": lambda row: offset_words(row["offset"], row["token"]),
        "Centre of mass, 95% interval": lambda row: interval_words(row, "centre"),
        "Predicted by the convolution": lambda row: offset_words(
            row["predicted_offset"], row["token"]
        ),
    }
    rows = [shift for model in records.able for shift in records.shifts(model)]
    return ShownTable.of("Off by one: the verdicts", cells, rows, numeric=(2, 3, 4, 5))


ANALYSIS = Analysis(
    "offsets",
    page="circuits",
    chapter="Off by one",
    figures=lambda records: [offset_figure(records, token) for token in REPLACED],
    values=lambda records: {"verdicts": offset_table(records)} if records.able else None,
)
