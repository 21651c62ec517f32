"""Every comparison and direction in numbers, one table per stratum."""

from __future__ import annotations

from homolog.analyses.records import STRATUM, PairRecords, Row
from homolog.charts.shown_table import ShownTable
from homolog.charts.words import CLOSE, integer, interval, number, percent
from homolog.record.comparisons import MAIN, comparison_of, in_order, side_words

STRATA = {
    STRATUM: "All features",
    "alive": "Alive features only",
    "frequent": "Frequent features only",
}
COLUMNS = [
    "Comparison",
    "Features of → looked for in",
    "Features",
    "Undefined",
    "Mean, 95% interval",
    "Median, 95% interval",
    f"r > {CLOSE}",
]


def summary_tables(records: PairRecords) -> list[ShownTable]:
    """The table of each stratum, that of all features first."""
    rows = ordered(records)
    known = list(dict.fromkeys([*STRATA, *(str(row["stratum"]) for row in rows)]))
    by_stratum = {name: [row for row in rows if row["stratum"] == name] for name in known}
    return [_table(STRATA.get(name, name), own) for name, own in by_stratum.items() if own]


def ordered(records: PairRecords) -> list[Row]:
    """The rows of summary in the page's order: by comparison, side A first, controls' own last."""
    order = in_order(records.summary["comparison"])
    rows = records.summary.iter_rows(named=True)
    return sorted(
        rows,
        key=lambda row: (order.index(row["comparison"]), row["side"] or "C", _source(row)),
    )


def _table(caption: str, rows: list[Row]) -> ShownTable:
    cells = [
        [
            comparison_of(row["comparison"]).plain,
            f"{_source(row)}\n→ {side_words(row['best_model'], row['best_label'])}",
            integer(row["n_features"]),
            integer(row["n_undefined"]),
            *(f"{number(row[s], 3)}\n{interval(row, s, 3)}" for s in ("mean", "median")),
            percent(row["share_above_07"]),
        ]
        for row in rows
    ]
    strong = frozenset(i for i, row in enumerate(rows) if row["comparison"] == MAIN.name)
    return ShownTable(caption, COLUMNS, cells, frozenset(range(2, 7)), strong)


def _source(row: Row) -> str:
    return side_words(row["model"], row["label"])
