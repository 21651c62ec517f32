"""Quality of every dictionary by depth."""

from __future__ import annotations

import altair as alt

from homolog.analyses.quality.tables import dictionary_words, is_compared
from homolog.analyses.records import PairRecords, Row
from homolog.charts import theme
from homolog.charts.figure import (
    SHARE_AXIS,
    UNIT,
    Figure,
    Rows,
    finish,
    panels,
    rounded,
    stroke_legend,
    tips,
)
from homolog.charts.words import is_number, number
from homolog.record.comparisons import MODEL_SEED

QUALITY = {
    "explained_variance": "Explained variance",
    "l0": "L0: features active at a token",
    "dead_share": "Share of dead features",
    "loss_recovered": "Loss recovered",
}
COMPARED = "compared"
DASHES = {
    COMPARED: [1, 0],
    "second dictionary seed": [7, 3],
    "second training seed": [3, 2],
    "untrained model": [1, 3],
    "another control": [5, 2, 1, 2],
}


def quality(records: PairRecords) -> Rows:
    """Quality of every dictionary by relative depth.

    Undefined values are left out, and so is the loss recovered of untrained models: they have none
    to recover.
    """
    untrained = records.untrained()
    rows: Rows = []
    for row in records.saes.sort("model", "label", "layer").iter_rows(named=True):
        for metric, title in QUALITY.items():
            recovers_nothing = row["model"] in untrained and metric == "loss_recovered"
            if not is_number(row[metric]) or recovers_nothing:
                continue
            rows.append(
                {
                    "panel": title,
                    "family": _family(records, row["model"]),
                    "variant": _variant(records, row),
                    "dictionary": dictionary_words(row),
                    "layer": row["layer"],
                    "value": rounded(row[metric]),
                    "passed": bool(row["passed"]),
                    "depth": rounded((row["layer"] + 1) / records.n_layers(row["model"])),
                }
            )
    return rows


def _family(records: PairRecords, model: str) -> str:
    """The model of the pair that a model stands beside: itself, or that of its architecture."""
    if model in records.pair:
        return model
    own = records.architecture(model)
    like = [name for name in records.pair if records.architecture(name) == own]
    return like[0] if like else model


def _variant(records: PairRecords, row: Row) -> str:
    """What sets a dictionary apart from those compared, in words."""
    if is_compared(records, row):
        return COMPARED
    if row["model"] in records.pair:
        return "second dictionary seed"
    if row["model"] in records.untrained():
        return "untrained model"
    seeds = records.summary.filter(comparison=MODEL_SEED.name)
    again = {*seeds["model"], *seeds["best_model"]}
    return "second training seed" if row["model"] in again else "another control"


def quality_figure(records: PairRecords) -> Figure | None:
    """Quality of the dictionaries by depth."""
    rows = quality(records)
    if not rows:
        return None
    panel = panels(_quality_layers(rows, records.pair), rows, height=170)
    chart = panel.resolve_scale(y="independent").properties(
        bounds="flush", spacing={"row": 58, "column": 62}
    )
    spans = "; ".join(
        f"{title}, {name}: {number(min(values))} to {number(max(values))}"
        for title in QUALITY.values()
        for name in records.pair
        if (values := _compared_values(rows, title, name))
    )
    return Figure(
        "dictionaries",
        "How good are the dictionaries?",
        "Thick lines are the dictionaries compared, thin ones those of the controls; a dictionary "
        "is usable where explained variance and loss recovered are high and few features are dead "
        "(a cross marks one that misses its gates).",
        f"Quality of the dictionaries by depth. {spans}.",
        finish(chart, rows, axes=56, each=True),
    )


def _compared_values(rows: Rows, title: str, model: str) -> list[float]:
    key = (title, model, COMPARED)
    return [r["value"] for r in rows if (r["panel"], r["family"], r["variant"]) == key]


def _quality_layers(rows: Rows, pair: tuple[str, str]) -> list[alt.Chart]:
    """Lines and points by architecture and variant, and crosses on what misses its gates."""
    known = {row["family"] for row in rows}
    families = [*(name for name in pair if name in known), *sorted(known - set(pair))]
    variants = [name for name in DASHES if any(row["variant"] == name for row in rows)]
    colours = [theme.MODEL_COLOURS[i % len(theme.MODEL_COLOURS)][0] for i in range(len(families))]
    x = alt.X("depth:Q", title="depth (share of blocks passed)", axis=SHARE_AXIS, scale=UNIT)
    ticks = alt.Axis(tickCount=5, minExtent=38, labelFlush=True)
    y = alt.Y("value:Q", title=None, axis=ticks, scale=alt.Scale(zero=False, nice=True))
    hues = alt.Scale(domain=families, range=colours)
    colour = alt.Color("family:N", scale=hues, legend=stroke_legend("architecture of", 1))
    dashes = alt.Scale(domain=variants, range=[DASHES[name] for name in variants])
    legend = stroke_legend("dictionaries", 2, symbolStrokeColor=theme.MUTED[0])
    dash = alt.StrokeDash("variant:N", scale=dashes, legend=legend)
    compared = f"datum.variant == '{COMPARED}'"
    thick = alt.condition(compared, alt.value(2.6), alt.value(1.4))
    large = alt.condition(compared, alt.value(45), alt.value(18))
    detail = alt.Detail("dictionary:N")
    tip = tips(
        ("dictionary", "dictionary", ""),
        ("layer", "block", ""),
        ("value", "value", ".3f"),
        ("passed", "passes its gates", ""),
    )
    line = alt.Chart().mark_line(tooltip=False)
    points = alt.Chart().mark_point(opacity=1).encode(x, y, colour, detail, tooltip=tip, size=large)
    cross = alt.Chart().mark_point(
        shape="cross", size=150, filled=False, strokeWidth=2.2, color=theme.INK[0], angle=45
    )
    return [
        line.encode(x, y, colour, dash, detail, strokeWidth=thick),
        points,
        cross.transform_filter("!datum.passed").encode(x, y, tooltip=tip),
    ]
