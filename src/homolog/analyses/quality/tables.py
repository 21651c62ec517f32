"""Quality of every dictionary in numbers."""

from __future__ import annotations

from homolog.analyses.records import PairRecords, Row
from homolog.charts.shown_table import ShownTable
from homolog.charts.words import integer, number, percent
from homolog.record.comparisons import MAIN_LABEL

COLUMNS = [
    "Model",
    "Block",
    "Kind, features",
    "Explained variance",
    "L0",
    "Dead",
    "Loss recovered",
    "Variance in sinks",
    "Gates",
]


def dictionary_tables(records: PairRecords) -> tuple[ShownTable, ShownTable]:
    """Of the dictionaries compared, and of all others."""
    rows: list[Row] = list(records.saes.sort("model", "label", "layer").iter_rows(named=True))
    own = [row for row in rows if is_compared(records, row)]
    others = [row for row in rows if not is_compared(records, row)]
    return (
        _table("The dictionaries compared", own),
        _table("The dictionaries of the controls", others),
    )


def is_compared(records: PairRecords, row: Row) -> bool:
    """Whether the dictionary is one that gives the result."""
    return row["model"] in records.pair and row["label"] == MAIN_LABEL


def dictionary_words(row: Row) -> str:
    """The dictionaries of a model by name: "mamba-s0", "mamba-s0 (seed1)"."""
    return row["model"] if row["label"] == MAIN_LABEL else f"{row['model']} ({row['label']})"


def _table(caption: str, rows: list[Row]) -> ShownTable:
    cells = [
        [
            dictionary_words(row),
            str(row["layer"]),
            f"{row['kind']}, {integer(row['d_sae'])}",
            number(row["explained_variance"], 3),
            number(row["l0"], 1),
            percent(row["dead_share"]),
            number(row["loss_recovered"], 3),
            percent(row["sink_share"]),
            "passes" if row["passed"] else f"fails: {row['reason'] or 'no reason recorded'}",
        ]
        for row in rows
    ]
    return ShownTable(caption, COLUMNS, cells, frozenset({1, 3, 4, 5, 6, 7}))
