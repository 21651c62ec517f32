"""Scores of edges beside what patching them for real does: the figure and the tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from homolog.analyses.induction.records import CircuitRecords, grouped
from homolog.analyses.induction.words import corruption_words, edge_words, interval_words
from homolog.analyses.records import Row
from homolog.charts import theme
from homolog.charts.figure import Figure, Rows, finish, panels, significant, tips
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import number
from homolog.record.circuits import correlation_column
from homolog.record.comparisons import MAIN, NEURONS
from homolog.record.tables import DISCOVERIES, EDGES

SHOWN_EDGES = 8  # of a model and corruption
EDGE_CELLS: Cells = {
    "Edge": edge_words,
    "Score": lambda row: number(row["score"]),
    "Effect, 95% interval": lambda row: interval_words(row, "effect", ("_low", "_high")),
}
TICKS = (-100, -30, -10, -3, -1, -0.3, -0.1, 0, 0.1, 0.3, 1, 3, 10, 30)


def patched_edges(records: CircuitRecords) -> Rows:
    """One row per edge that was patched for real."""
    edges = records.table(EDGES).filter(pl.col("effect").is_not_null())
    rows = records.in_order(edges.filter(pl.col("effect").is_not_nan()).to_dicts())
    numbers = {"score": "score", "effect": "effect", "low": "effect_low", "high": "effect_high"}
    return [
        {
            "panel": f"{row['model']}: {corruption_words(row['corruption'])}",
            "edge": edge_words(row),
            "chosen": row["chosen_as"],
        }
        | {name: significant(row[column]) for name, column in numbers.items()}
        for row in rows
    ]


def edge_figure(records: CircuitRecords) -> Figure | None:
    """Every edge that was patched for real, and the line on which score and effect agree."""
    rows = patched_edges(records)
    if not rows:
        return None
    values = [row[key] for row in rows for key in ("score", "effect") if row[key] is not None]
    ends = (min(values), max(values))
    diagonal = [
        {"panel": panel, "chosen": "same", "score": end, "effect": end}
        for panel in dict.fromkeys(row["panel"] for row in rows)
        for end in ends
    ]
    told = grouped(discoveries(records), "model").items()
    said = "; ".join(
        f"{model}: {', '.join(map(_correlation_words, own))}" for (model,), own in told
    )
    return Figure(
        "edges",
        "Do scores from gradients tell the truth?",
        "Each dot is an edge of discovery: its score across, the change of the logit difference "
        "when it is patched for real upward; on the dotted line both agree. Both axes are linear "
        "near zero and logarithmic beyond 0.05.",
        f"Scatter of score and effect of edges. Pearson correlations: {said}.",
        finish(panels(_layers(*ends), rows, height=250), rows + diagonal, axes=58),
    )


def discoveries(records: CircuitRecords) -> list[Row]:
    """The rows of the table of that name, by model and corruption."""
    return records.in_order(records.table(DISCOVERIES).to_dicts())


def _correlation_words(row: Row) -> str:
    r = row[correlation_column("pearson", "all")]
    return f"{number(r)} with {corruption_words(row['corruption'])}"


def _layers(least: float, most: float) -> list[alt.Chart]:
    domain = [least * 1.3, max(most * 1.3, 0.05)]
    scale = alt.Scale(type="symlog", constant=0.05, nice=False, domain=domain)
    axis = alt.Axis(values=TICKS, labelOverlap="greedy", format="~g")
    x = alt.X("score:Q", title="score, from gradients", scale=scale, axis=axis)
    y = alt.Y("effect:Q", title="effect, patched for real", scale=scale, axis=axis)
    names = ["top", "random"]
    hues = [theme.comparison_colour(name) for name in (MAIN.name, NEURONS.name)]
    label = "{top: 'largest scores', random: 'drawn at random'}[datum.label]"
    legend = alt.Legend(title=None, labelExpr=label)
    colours = alt.Scale(domain=names, range=hues)
    colour = alt.Color("chosen:N", sort=names, scale=colours, legend=legend)
    tip = tips(
        ("edge", "edge", ""),
        ("score", "score", ".4f"),
        ("effect", "effect", ".4f"),
        ("low", "from", ".4f"),
        ("high", "to", ".4f"),
    )
    line = alt.Chart().transform_filter("datum.chosen == 'same'")
    line = line.mark_line(strokeDash=[2, 3], color=theme.MUTED[0], tooltip=False, strokeWidth=1)
    points = alt.Chart().transform_filter("datum.chosen != 'same'")
    points = points.mark_point(size=42, opacity=0.85)
    return [line.encode(x, y), points.encode(x, y, colour, tooltip=tip)]


def correlation_table(records: CircuitRecords) -> ShownTable:
    """How well scores predict effects."""

    def correlations(row: Row, edges: str) -> str:
        columns = (correlation_column(kind, edges) for kind in ("pearson", "spearman"))
        return " / ".join(number(row[column]) for column in columns)

    cells: Cells = {
        "Model": lambda row: row["model"],
        "Prompt with": lambda row: corruption_words(row["corruption"]),
        "Largest scores": lambda row: correlations(row, "top"),
        "Random edges": lambda row: correlations(row, "random"),
        "All patched": lambda row: correlations(row, "all"),
        "Parts found again": lambda row: f"{row['n_found']} of {row['n_named']}",
    }
    caption = "Score against real effect: Pearson / Spearman"
    return ShownTable.of(caption, cells, discoveries(records), numeric=range(2, 6))


def edge_tables(records: CircuitRecords) -> list[ShownTable]:
    """The edges with the largest scores, one table per model and corruption."""
    size = pl.col("score").abs()
    edges = records.table(EDGES).sort(size, descending=True, nulls_last=True, maintain_order=True)
    tables = []
    for row in discoveries(records):
        model, corruption = row["model"], row["corruption"]
        top = edges.filter(model=model, corruption=corruption).head(SHOWN_EDGES)
        caption = f"{model}, {corruption_words(corruption)}"
        tables.append(ShownTable.of(caption, EDGE_CELLS, top.to_dicts(), numeric=(1, 2)))
    return tables


def section_values(records: CircuitRecords) -> Mapping[str, Any] | None:
    """None where no edges were scored."""
    if not discoveries(records):
        return None
    return {"correlations": correlation_table(records), "edges": edge_tables(records)}
