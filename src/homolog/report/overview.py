"""More than two models: how much each shares with each other, and the page of every pair."""

from __future__ import annotations

import re
from dataclasses import dataclass

import altair as alt

from homolog.analyses.records import StudyRecords, Verdict
from homolog.charts import theme
from homolog.charts.figure import Figure, finish, tips
from homolog.charts.shown_table import ShownTable
from homolog.charts.words import MISSING, integer, is_number, listed, number, percent
from homolog.report.aggregate import Rows, short

CELL = 78  # pixels


@dataclass(frozen=True)
class PairPage:
    """One pair of the overview: its page, and the folder of its figures, both relative to the
    report.
    """

    pair: tuple[str, str]
    file: str
    figures: str
    verdicts: tuple[Verdict, Verdict]


def pair_pages(records: StudyRecords) -> list[PairPage]:
    """The pages of all pairs: pair-A--B.html, with the place of the pair where two names would be
    one file.
    """
    pages: list[PairPage] = []
    for place, (a, b) in enumerate(records.pairs):
        name = re.sub(r"[^A-Za-z0-9._-]", "-", f"{a}--{b}")
        if any(page.file == f"pair-{name}.html" for page in pages):
            name = f"{name}-{place}"
        verdicts = (records.verdict(a, b), records.verdict(b, a))
        pages.append(PairPage((a, b), f"pair-{name}.html", f"figures/pair-{name}", verdicts))
    return pages


def title(records: StudyRecords) -> str:
    """The question that the overview answers."""
    names = (
        listed(records.compared) if len(records.compared) < 5 else f"{len(records.compared)} models"
    )
    return f"What do {names} share?"


def shared_table(records: StudyRecords) -> ShownTable:
    """Every ordered pair, with a direction whose verdict was withheld marked so."""
    rows = []
    for source, target in ((a, b) for a in records.compared for b in records.compared if a != b):
        row = records.shared_row(source, target)
        if row is None:
            continue
        given = records.verdict(source, target).given
        rows.append(
            [
                f"{source}\n→ {target}",
                integer(row["n_alive"]),
                f"{percent(row['share'])}\n{percent(row['lo'])} to {percent(row['hi'])}"
                if given
                else MISSING,
                percent(row["ceiling"]),
                number(row["mean_r"]),
                number(row["mean_excess"]),
                percent(row["share_one_to_one"]),
                percent(row["share_stable"]),
                "given" if given else "withheld",
            ]
        )
    columns = [
        "Features of → looked for in",
        "Alive",
        "Homologs, 95% interval",
        "Ceiling",
        "Mean r",
        "Excess over chance",
        "One-to-one",
        "Stable",
        "Verdict",
    ]
    return ShownTable("Every pair, both ways", columns, rows, frozenset(range(1, 8)))


def sharedness(records: StudyRecords) -> Rows:
    """One row a cell: source, target, share (None where the verdict was withheld), interval, and
    its two texts.
    """
    rows: Rows = []
    for source, target in ((a, b) for a in records.compared for b in records.compared if a != b):
        row = records.shared_row(source, target)
        if row is None:
            continue
        given = records.verdict(source, target).given and is_number(row["share"])
        ceiling = f"ceiling {percent(row['ceiling'])}" if is_number(row["ceiling"]) else ""
        rows.append(
            {
                "source": source,
                "target": target,
                "share": short(row["share"]) if given else None,
                "interval": f"{percent(row['lo'])} to {percent(row['hi'])}",
                "text": percent(row["share"]) if given else "no verdict",
                "ceiling": ceiling if given else "",
            }
        )
    return rows


def shared_figure(records: StudyRecords) -> Figure | None:
    """The share of homologs of every ordered pair."""
    rows = sharedness(records)
    if not rows:
        return None
    names = list(records.compared)
    band = alt.Scale(paddingInner=0.05, paddingOuter=0.03, domain=names)
    across = alt.Axis(
        labelAngle=0 if len(names) < 6 else -40, grid=False, ticks=False, orient="top"
    )
    x = alt.X("target:N", title="looked for in", sort=names, scale=band, axis=across)
    y = alt.Y(
        "source:N",
        title="features of",
        sort=names,
        scale=band,
        axis=alt.Axis(grid=False, ticks=False),
    )
    high = max([0.01, *(row["share"] for row in rows if row["share"] is not None)])
    colour = alt.Color("share:Q", scale=alt.Scale(scheme="viridis", domain=[0, high]), legend=None)
    tip = tips(
        ("source", "features of", ""),
        ("target", "looked for in", ""),
        ("share", "share", ".1%"),
        ("interval", "95% interval", ""),
    )
    ink = alt.condition(
        f"datum.share > {0.55 * high:.4f}", alt.value("#101010"), alt.value("#fdfdfd")
    )
    given = alt.Chart().transform_filter("datum.share !== null")
    cells = given.mark_rect().encode(x, y, colour, tooltip=tip)
    text = given.mark_text(fontSize=15, dy=-6, tooltip=False).encode(x, y, text="text:N", color=ink)
    below = given.mark_text(fontSize=11, dy=11, tooltip=False).encode(
        x, y, text="ceiling:N", color=ink
    )
    withheld = alt.Chart().transform_filter("datum.share === null")
    none = withheld.mark_text(fontSize=12, color=theme.MUTED[0], tooltip=False).encode(
        x, y, text="text:N"
    )
    chart = alt.layer(cells, text, below, none).properties(
        width=CELL * len(names) * 2, height=CELL * len(names)
    )
    said = "; ".join(f"{row['source']} in {row['target']}: {row['text']}" for row in rows)
    ceiling = " The ceiling is the same share when a model is looked for in itself, through its second dictionaries."
    return Figure(
        "shared",
        "Who shares how much with whom?",
        "Each cell is the share of the row's alive features that have a homolog in the model of "
        "the column." + (ceiling if any(row["ceiling"] for row in rows) else ""),
        f"Heatmap of the share of features with a homolog. {said}.",
        finish(chart, rows, axes=150),
    )
