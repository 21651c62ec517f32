"""How two witnesses divide the features of which both say something; tables of the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from homolog.analyses.records import PairRecords, Row
from homolog.analyses.witnesses.rules import ALL, NAMES
from homolog.charts import figure, theme
from homolog.charts.links import address
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import integer, interval, number, percent
from homolog.record.comparisons import MAIN, NEURONS
from homolog.record.tables import WITNESS_AGREEMENT, WITNESSES

LABELS = {witness.name: witness.label for witness in ALL}
ANSWERS = {
    "both": "both say shared",
    "alone": "the first alone",
    "other_alone": "the second alone",
    "neither": "neither",
}


def agreement_rows(records: PairRecords) -> figure.Rows:
    """A row for each direction, two witnesses and answer of `ANSWERS`, in these orders.

    Without those of which one says nearly the same of all: there is little to agree on.
    """
    rows: figure.Rows = []
    for side, model, partner in records.sides:
        own = records.table(WITNESS_AGREEMENT).filter(
            pl.col("kappa_lo").is_finite(), model=model, best_model=partner
        )
        for line, row in enumerate(own.iter_rows(named=True)):
            said = f"{row['witness']}, {row['other']}|kappa {number(row['kappa'])}"
            for place, (answer, n) in enumerate(counts_of(row).items()):
                rows.append(
                    {
                        "panel": records.panel(side),
                        "pair": f"{said} of {integer(row['n'])}",
                        "answer": answer,
                        "line": line,
                        "place": place,
                        "share": figure.rounded(n / row["n"]),
                        "n": n,
                        **_link(records, (model, partner), row, answer),
                    }
                )
    return rows


def counts_of(row: Mapping[str, Any]) -> dict[str, int]:
    """Features by answer, of a row of `WITNESS_AGREEMENT`."""
    counts = {name: row[name] for name in ("both", "alone", "other_alone")}
    return counts | {"neither": row["n"] - sum(counts.values())}


def _link(records: PairRecords, models: tuple[str, str], row: Row, answer: str) -> dict[str, str]:
    """To the features on which they disagree in the explorer, if the run has one."""
    pair = {"alone": ("witness", "other"), "other_alone": ("other", "witness")}.get(answer)
    if pair is None or not records.explored:
        return {}
    return {"link": address(*models, witnesses="-".join(row[name] for name in pair))}


def agreement_figure(records: PairRecords) -> figure.Figure | None:
    """One bar for each two witnesses; None where no two can be compared."""
    rows = agreement_rows(records)
    if not rows:
        return None
    across = alt.Axis(labelExpr="split(datum.label, '|')", ticks=False, grid=False)
    y = alt.Y("pair:N", sort=alt.EncodingSortField("line"), title=None, axis=across)
    x = alt.X("share:Q", title="share of the features", axis=figure.SHARE_AXIS, scale=figure.UNIT)
    blue, orange = (theme.comparison_colour(comparison.name) for comparison in (MAIN, NEURONS))
    names = list(ANSWERS)
    scale = alt.Scale(domain=names, range=[blue, orange, theme.EXPLAINED[0], theme.NEUTRAL[0]])
    labels = ", ".join(f"{name}: '{words}'" for name, words in ANSWERS.items())
    legend = alt.Legend(title=None, columns=4, labelExpr=f"{{{labels}}}[datum.label]")
    tip = figure.tips(
        ("pair", "witnesses", ""),
        ("answer", "say shared", ""),
        ("share", "share", ".0%"),
        ("n", "features", ","),
    )
    mark, link = figure.linked(rows)
    bars = alt.Chart().mark_bar(height={"band": 0.6}, **mark)
    bars = bars.encode(
        x,
        y,
        alt.Color("answer:N", scale=scale, legend=legend),
        alt.Order("place:Q"),
        tooltip=tip,
        **link,
    )
    said = "; ".join(f"{row['panel']}, {row['pair']}" for row in rows if row["answer"] == "both")
    chart = figure.panels([bars], rows, height=44 * (1 + max(row["line"] for row in rows)))
    chart = chart.resolve_scale(y="independent")
    return figure.Figure(
        "witnesses",
        "Do the methods say the same?",
        "Each bar is two methods and the features of which both say whether the other model has "
        "them: where they agree it is blue or pale, where one of them stands alone it is orange "
        "or grey. Kappa is 0 where they agree as often as by chance, 1 where they always do.",
        f"Bars of how two methods divide features. Kappa: {said.replace('|', ', ')}.",
        figure.finish(chart, rows, axes=150, each=True),
    )


AGREEMENT_CELLS: Cells = {
    "Features of → looked for in": lambda row: f"{row['model']}\n→ {row['best_model']}",
    "Witnesses": lambda row: f"{LABELS[row['witness']]}, {LABELS[row['other']]}",
    "Features": lambda row: integer(row["n"]),
    "Lines": lambda row: integer(row["n_lines"]),
    "Both": lambda row: integer(row["both"]),
    "The first alone": lambda row: integer(row["alone"]),
    "The second alone": lambda row: integer(row["other_alone"]),
    "Agree": lambda row: percent(row["agreement"]),
    "Kappa, 95% interval": lambda row: f"{number(row['kappa'])}\n({interval(row, 'kappa')})",
}
SHARE_CELLS: Cells = {
    "Features of → looked for in": lambda row: f"{row['model']}\n→ {row['best_model']}",
    "Witness": lambda row: LABELS[row["witness"]],
    "Says something of": lambda row: integer(row["n"]),
    "Calls shared": lambda row: percent(row["share"]),
}


def agreement_table(records: PairRecords) -> ShownTable:
    """Every two witnesses of both directions."""
    rows = records.table(WITNESS_AGREEMENT).iter_rows(named=True)
    caption = "Two witnesses at a time"
    return ShownTable.of(caption, AGREEMENT_CELLS, rows, numeric=range(2, 9))


def shares_table(records: PairRecords) -> ShownTable:
    """Of how many features each witness says something, and how many it calls shared."""
    rows = [
        {"model": model, "best_model": partner, "witness": name, "n": len(own), "share": own.mean()}
        for _, model, partner in records.sides
        for said in [records.table(WITNESSES).filter(model=model, best_model=partner)]
        for name in NAMES
        if len(own := said[name].drop_nulls())
    ]
    return ShownTable.of("Each witness by itself", SHARE_CELLS, rows, numeric=(2, 3))
