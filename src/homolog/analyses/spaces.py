"""Are the spaces of two blocks alike: their residual streams, and their decoder directions?"""

from __future__ import annotations

import altair as alt
import polars as pl

from homolog.analyses.analysis import Analysis
from homolog.analyses.records import PairRecords
from homolog.charts.block_map import BlockMap
from homolog.charts.figure import Figure, Rows, finish, rounded, tips
from homolog.charts.words import number
from homolog.record.comparisons import MAIN, RANDOM_MODEL

SPACES = {
    "cka": "Residual streams: CKA",
    "svcca": "Residual streams: SVCCA",
    "decoder_rsa": "Decoder directions: RSA",
    "decoder_svcca": "Decoder directions: SVCCA",
}
"""Titles of the columns of `layers`."""


def _known(records: PairRecords, comparison: str, measure: str) -> pl.DataFrame:
    rows = records.layers.filter(comparison=comparison, side="A")
    return rows.filter(pl.col(measure).is_finite()).sort("layer", "best_layer")


def spaces(records: PairRecords) -> Rows:
    """Similarity of the two spaces of every pair of blocks, one panel per measure of the run.

    `tone` is the place of the value between the lowest (0) and the highest (1) of its panel, whose
    title names both: the measures have ranges of their own.
    """
    rows: Rows = []
    for measure, title in SPACES.items():
        known = _known(records, MAIN.name, measure)
        values = known.get_column(measure).to_list()
        low, high = min(values, default=0.0), max(values, default=0.0)
        for row in known.iter_rows(named=True):
            tone = (row[measure] - low) / (high - low) if high > low else 0.5
            rows.append(
                {
                    "panel": f"{title}, {number(low)} to {number(high)}",
                    "measure": measure,
                    "a": row["layer"],
                    "b": row["best_layer"],
                    "value": rounded(row[measure]),
                    "tone": rounded(tone),
                    "n": row["n_pairs"] if measure.startswith("decoder") else None,
                }
            )
    return rows


def space_means(records: PairRecords) -> list[tuple[str, float, float | None]]:
    """(title, mean over the pairs of blocks, the same with the untrained model) of each measure."""

    def mean(comparison: str, measure: str) -> float | None:
        known = _known(records, comparison, measure).get_column(measure)
        return float(known.to_numpy().mean()) if len(known) else None

    means = [
        (title, mean(MAIN.name, name), mean(RANDOM_MODEL.name, name))
        for name, title in SPACES.items()
    ]
    return [(title, main, untrained) for title, main, untrained in means if main is not None]


def spaces_figure(records: PairRecords) -> Figure | None:
    """CKA and SVCCA of residual streams, RSA and SVCCA of decoder directions, by pair of blocks."""
    rows = spaces(records)
    if not rows:
        return None
    a, b = records.pair
    blocks = BlockMap(rows, records.pair, "value")
    ends = "datum.value == 0 ? 'lowest' : datum.value == 1 ? 'highest' : ''"
    legend = alt.Legend(title="in its panel", values=[0, 1], labelExpr=ends, gradientLength=120)
    colour = alt.Color("tone:Q", scale=alt.Scale(scheme="viridis", domain=[0, 1]), legend=legend)
    tip = tips(("a", a, ""), ("b", b, ""), ("value", "value", ".3f"), ("n", "matched pairs", ","))
    chart = blocks.drawn([blocks.cells(colour, tip), *blocks.numbers("datum.tone > 0.55")])
    means = "; ".join(
        f"{title} {number(value)}"
        + ("" if other is None else f", {number(other)} with the untrained model")
        for title, value, other in space_means(records)
    )
    measured = {row["measure"] for row in rows}
    missing = [title for measure, title in SPACES.items() if measure not in measured]
    return Figure(
        "spaces",
        "Are the spaces of these blocks alike?",
        "Each cell compares one block of each model as a whole: the residual streams on the same "
        "tokens, and the decoder directions of the features that match (empty where too few do). "
        "Colours run from the lowest to the highest value of each panel, which its title names. "
        f"Mean of all cells: {means}."
        + (f" Not measured in this run: {'; '.join(missing)}." if missing else ""),
        "Heatmaps of the similarity of every pair of blocks. "
        f"{'; '.join(dict.fromkeys(row['panel'] for row in rows))}.",
        finish(chart, rows, axes=58),
    )


ANALYSIS = Analysis("spaces", chapter="Spaces", figures=lambda records: [spaces_figure(records)])
