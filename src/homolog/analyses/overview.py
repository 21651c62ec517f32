"""More than two models: how much does each share with each other, pair by pair?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from homolog.analyses.analysis import Analysis
from homolog.analyses.records import Row, StudyRecords
from homolog.analyses.tree import names_in_order
from homolog.charts import theme
from homolog.charts.figure import Figure, Rows, finish, rounded, tips
from homolog.charts.links import pair_pages
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import MISSING, integer, is_number, number, percent
from homolog.record.tables import TREE

CELL, LEAST_CELL, MOST_WIDTH = 78, 30, 640  # pixels
WORDY = 60
"""Pixels of a cell that holds the ceiling too."""
SECTION = """
{% for (a, b), page, verdicts in pairs %}
<h3><a href="{{ page }}.html">{{ a }} and {{ b }}</a></h3>
<div class="pair">{% for verdict in verdicts %}{{ verdict_box(verdict, 4) }}{% endfor %}</div>
{% endfor %}
"""


def shared_table(records: StudyRecords) -> ShownTable:
    """Every ordered pair, with a direction whose verdict was withheld marked so."""

    def given(row: Row) -> bool:
        return records.verdict(row["model"], row["best_model"]).given

    cells: Cells = {
        "Features of → looked for in": lambda row: f"{row['model']}\n→ {row['best_model']}",
        "Alive": lambda row: integer(row["n_alive"]),
        "Homologs, 95% interval": lambda row: (
            f"{percent(row['share'])}\n{_interval(row)}" if given(row) else MISSING
        ),
        "Ceiling": lambda row: percent(row["ceiling"]),
        "Mean r": lambda row: number(row["mean_r"]),
        "Excess over chance": lambda row: number(row["mean_excess"]),
        "One-to-one": lambda row: percent(row["share_one_to_one"]),
        "Stable": lambda row: percent(row["share_stable"]),
        "Verdict": lambda row: "given" if given(row) else "withheld",
    }
    rows = _shared_rows(records)
    return ShownTable.of("Every pair, both ways", cells, rows, numeric=range(1, 8))


def sharedness(records: StudyRecords) -> Rows:
    """One row per cell: share, None where the verdict was withheld, and in words the rest."""
    rows: Rows = []
    for row in _shared_rows(records):
        given = records.verdict(row["model"], row["best_model"]).given and is_number(row["share"])
        ceiling = f"ceiling {percent(row['ceiling'])}" if is_number(row["ceiling"]) else ""
        rows.append(
            {
                "source": row["model"],
                "target": row["best_model"],
                "share": rounded(row["share"]) if given else None,
                "interval": _interval(row),
                "text": percent(row["share"]) if given else "no verdict",
                "ceiling": ceiling if given else "",
            }
        )
    return rows


def _shared_rows(records: StudyRecords) -> list[Row]:
    rows = [records.shared_row(model, partner) for model, partner in records.directions]
    return [row for row in rows if row is not None]


def _interval(row: Row) -> str:
    return f"{percent(row['lo'])} to {percent(row['hi'])}"


def shared_figure(records: StudyRecords) -> Figure | None:
    """The share of homologs of every ordered pair."""
    rows = sharedness(records)
    if not rows:
        return None
    names = names_in_order(records.table(TREE)) or list(records.compared)
    high = max([0.01, *(row["share"] for row in rows if row["share"] is not None)])
    cell = min(CELL, max(LEAST_CELL, MOST_WIDTH // len(names)))
    width = len(names) * (2 * cell if len(names) < 5 else max(cell, 48))
    layers = _shared_layers(names, high, wordy=cell >= WORDY)
    chart = alt.layer(*layers).properties(width=width, height=cell * len(names))
    said = "; ".join(f"{row['source']} in {row['target']}: {row['text']}" for row in rows)
    ceiling = (
        " The ceiling is the same share when a model is looked for in itself, through its second "
        "dictionaries."
    )
    return Figure(
        "shared",
        "Who shares how much with whom?",
        "Each cell is the share of the row's alive features that have a homolog in the model of "
        "the column." + (ceiling if any(row["ceiling"] for row in rows) else ""),
        f"Heatmap of the share of features with a homolog. {said}.",
        finish(chart, rows, axes=150),
    )


def _shared_layers(names: list[str], high: float, wordy: bool) -> list[alt.Chart]:
    """Cells with their share and words where the verdict was withheld; `wordy`: ceilings too."""
    band = alt.Scale(paddingInner=0.05, paddingOuter=0.03, domain=names)
    angle = 0 if len(names) < 6 else -40
    across = alt.Axis(labelAngle=angle, grid=False, ticks=False, orient="top")
    down = alt.Axis(grid=False, ticks=False)
    x = alt.X("target:N", title="looked for in", sort=names, scale=band, axis=across)
    y = alt.Y("source:N", title="features of", sort=names, scale=band, axis=down)
    colour = alt.Color("share:Q", scale=alt.Scale(scheme="viridis", domain=[0, high]), legend=None)
    tip = tips(
        ("source", "features of", ""),
        ("target", "looked for in", ""),
        ("share", "share", ".1%"),
        ("interval", "95% interval", ""),
    )
    bright = f"datum.share > {0.55 * high:.4f}"
    ink = alt.condition(bright, alt.value("#101010"), alt.value("#fdfdfd"))
    given = alt.Chart().transform_filter("datum.share !== null")
    size, up = (15, -6) if wordy else (11, 0)
    share = given.mark_text(fontSize=size, dy=up, tooltip=False)
    below = given.mark_text(fontSize=11, dy=11, tooltip=False)
    withheld = alt.Chart().transform_filter("datum.share === null")
    none = withheld.mark_text(fontSize=12, color=theme.MUTED[0], tooltip=False)
    return [
        given.mark_rect().encode(x, y, colour, tooltip=tip),
        share.encode(x, y, text="text:N", color=ink),
        *([below.encode(x, y, text="ceiling:N", color=ink)] if wordy else []),
        none.encode(x, y, text="text:N" if wordy else alt.value("-")),
    ]


def _values(records: StudyRecords) -> Mapping[str, Any] | None:
    return {"shared": shared_table(records)} if len(records.compared) > 2 else None


def _pairs(records: StudyRecords) -> Mapping[str, Any] | None:
    if len(records.compared) == 2:
        return None
    verdicts = [(records.verdict(a, b), records.verdict(b, a)) for a, b in records.pairs]
    return {"pairs": list(zip(records.pairs, pair_pages(records.pairs), verdicts, strict=True))}


ANALYSIS = Analysis(
    "overview",
    page="study",
    chapter="Result",
    figures=lambda records: [shared_figure(records)],
    values=_values,
)
PAIRS = Analysis(
    "pairs",
    page="study",
    chapter="Pair by pair",
    asks="What does each pair share?",
    values=_pairs,
    template=SECTION,
)
