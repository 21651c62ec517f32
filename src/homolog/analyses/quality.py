"""How good are the dictionaries?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from homolog.analyses.analysis import Analysis
from homolog.analyses.records import PairRecords, Row, mapping
from homolog.charts import figure, theme
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import integer, is_number, number, percent
from homolog.record.comparisons import MODEL_SEED
from homolog.record.sides import MAIN_LABEL

QUALITY = {
    "explained_variance": "Explained variance",
    "l0": "L0: features active at a token",
    "dead_share": "Share of dead features",
    "loss_recovered": "Loss recovered",
}
COMPARED = "compared"
UNKNOWN = "no reason recorded"
DASHES = {
    COMPARED: [1, 0],
    "second dictionary seed": [7, 3],
    "second training seed": [3, 2],
    "untrained model": [1, 3],
    "another control": [5, 2, 1, 2],
}


def is_compared(records: PairRecords, row: Row) -> bool:
    """Whether the dictionary is one that gives the result."""
    return row["model"] in records.pair and row["label"] == MAIN_LABEL


def dictionary_words(row: Row) -> str:
    """The dictionaries of a model by name: "mamba-s0", "mamba-s0 (seed1)"."""
    return row["model"] if row["label"] == MAIN_LABEL else f"{row['model']} ({row['label']})"


CELLS: Cells = {
    "Model": dictionary_words,
    "Block": lambda row: str(row["layer"]),
    "Kind, features": lambda row: f"{row['kind']}, {integer(row['d_sae'])}",
    "Explained variance": lambda row: number(row["explained_variance"], 3),
    "L0": lambda row: number(row["l0"], 1),
    "Dead": lambda row: percent(row["dead_share"]),
    "Loss recovered": lambda row: number(row["loss_recovered"], 3),
    "Variance in sinks": lambda row: percent(row["sink_share"]),
    "Gates": lambda row: "passes" if row["passed"] else f"fails: {row['reason'] or UNKNOWN}",
}


def dictionary_tables(records: PairRecords) -> Mapping[str, ShownTable]:
    """Of the dictionaries compared ("own"), and of all others."""
    rows = list(records.saes.sort("model", "label", "layer").iter_rows(named=True))
    captions = {"own": "The dictionaries compared", "others": "The dictionaries of the controls"}
    return {
        name: ShownTable.of(
            caption,
            CELLS,
            [row for row in rows if is_compared(records, row) == (name == "own")],
            numeric=(1, 3, 4, 5, 6, 7),
        )
        for name, caption in captions.items()
    }


SINK_CELLS: Cells = {
    "Model": lambda row: row["model"],
    "Block": lambda row: str(row["layer"]),
    "Median norm": lambda row: number(row["median"], 1),
    "Sinks above": lambda row: number(row["limit"], 1),
    "Variance on them": lambda row: percent(row["sink_share"]),
    "Found": lambda row: integer(row["n"]),
}


def sinks(records: PairRecords) -> Mapping[str, Any] | None:
    """What is masked of the matched text besides special tokens, and why; None: nothing."""
    known = mapping(records.run.get("sinks"))
    rows = [mapping(row) for row in known.get("layers") or []]
    if not rows:
        return None
    masked = mapping(known["masked"])
    texts = {records.folder.text_of(model): model for model in reversed(records.pair)}
    counts = [f"{integer(masked.get(text, 0))}" for text in texts]
    if len(texts) > 1:
        counts = [f"{n} of {model}" for n, model in zip(counts, texts.values(), strict=True)]
    words = (
        f"Masked as sinks: {' and '.join(reversed(counts))} tokens of the matched text, in all "
        "models that read it. A sink is a token with a norm over "
        f"{number(known['norm'], 0)} times the median in a block where such tokens hold more than "
        f"{percent(known['share'])} of the variance; the median and that share are of the text "
        "that measures quality. What is learnt from has none of the model's own."
    )
    return {"words": words, "table": ShownTable.of("Sinks", SINK_CELLS, rows, numeric=range(1, 6))}


def quality(records: PairRecords) -> figure.Rows:
    """Quality of every dictionary by relative depth.

    Undefined values are left out, and so is the loss recovered of untrained models: they have none
    to recover.
    """
    untrained = records.untrained()
    rows: figure.Rows = []
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
                    "value": figure.rounded(row[metric]),
                    "passed": bool(row["passed"]),
                    "depth": figure.rounded((row["layer"] + 1) / records.n_layers(row["model"])),
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


def quality_figure(records: PairRecords) -> figure.Figure | None:
    """Quality of the dictionaries by depth."""
    rows = quality(records)
    if not rows:
        return None
    panel = figure.panels(_quality_layers(rows, records.pair), rows, height=170)
    chart = panel.resolve_scale(y="independent").properties(
        bounds="flush", spacing={"row": 58, "column": 62}
    )
    by_line: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        by_line.setdefault((row["panel"], row["family"], row["variant"]), []).append(row["value"])
    spans = "; ".join(
        f"{title}, {name}: {number(min(values))} to {number(max(values))}"
        for title in QUALITY.values()
        for name in records.pair
        if (values := by_line.get((title, name, COMPARED)))
    )
    return figure.Figure(
        "dictionaries",
        "How good are the dictionaries?",
        "Thick lines are the dictionaries compared, thin ones those of the controls; a dictionary "
        "is usable where explained variance and loss recovered are high and few features are dead "
        "(a cross marks one that misses its gates).",
        f"Quality of the dictionaries by depth. {spans}.",
        figure.finish(chart, rows, axes=56, each=True),
    )


def _quality_layers(rows: figure.Rows, pair: tuple[str, str]) -> list[alt.Chart]:
    """Lines and points by architecture and variant, and crosses on what misses its gates."""
    known = {row["family"] for row in rows}
    families = [*(name for name in pair if name in known), *sorted(known - set(pair))]
    variants = [name for name in DASHES if any(row["variant"] == name for row in rows)]
    colours = [theme.MODEL_COLOURS[i % len(theme.MODEL_COLOURS)][0] for i in range(len(families))]
    x = alt.X(
        "depth:Q", title="depth (share of blocks passed)", axis=figure.SHARE_AXIS, scale=figure.UNIT
    )
    ticks = alt.Axis(tickCount=5, minExtent=38, labelFlush=True)
    y = alt.Y("value:Q", title=None, axis=ticks, scale=alt.Scale(zero=False, nice=True))
    hues = alt.Scale(domain=families, range=colours)
    colour = alt.Color("family:N", scale=hues, legend=figure.stroke_legend("architecture of", 1))
    dashes = alt.Scale(domain=variants, range=[DASHES[name] for name in variants])
    legend = figure.stroke_legend("dictionaries", 2, symbolStrokeColor=theme.MUTED[0])
    dash = alt.StrokeDash("variant:N", scale=dashes, legend=legend)
    compared = f"datum.variant == '{COMPARED}'"
    thick = alt.condition(compared, alt.value(2.6), alt.value(1.4))
    large = alt.condition(compared, alt.value(45), alt.value(18))
    detail = alt.Detail("dictionary:N")
    tip = figure.tips(
        ("dictionary", "dictionary", ""),
        ("layer", "block", ""),
        ("value", "value", ".3f"),
        ("passed", "passes its gates", ""),
    )
    line = alt.Chart().mark_line(tooltip=False)
    points = alt.Chart().mark_point(opacity=1).encode(x, y, colour, detail, tooltip=tip, size=large)
    cross = alt.Chart().mark_point(
        shape="M-1,-1L1,1M1,-1L-1,1", size=90, filled=False, strokeWidth=2, color=theme.INK[0]
    )
    return [
        line.encode(x, y, colour, dash, detail, strokeWidth=thick),
        points,
        cross.transform_filter("!datum.passed").encode(x, y, tooltip=tip),
    ]


ANALYSIS = Analysis(
    "quality",
    chapter="Dictionaries",
    figures=lambda records: [quality_figure(records)],
    values=lambda records: {**dictionary_tables(records), "sinks": sinks(records)},
)
