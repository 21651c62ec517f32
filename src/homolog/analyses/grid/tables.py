"""Every cell of a grid in numbers, with the way to its own report."""

from __future__ import annotations

from homolog.analyses.grid.records import GridRecords
from homolog.charts.shown_table import ShownTable
from homolog.charts.words import MISSING, integer, is_number, number, percent

COLUMNS = [
    "Cell",
    "Kind",
    "Features",
    "Sparsity",
    "L0",
    "Explained variance",
    "Homologs, 95% interval",
    "Ceiling",
    "Partner back in all seeds",
    "Homolog, back in all seeds",
    "Verdict",
]


def cell_table(records: GridRecords, model: str, other: str) -> ShownTable:
    """The cells of one direction, in the order in which they ran."""
    rows, links = [], []
    for row in records.cells.filter(model=model, best_model=other).iter_rows(named=True):
        between = f"{percent(row['lo'])} to {percent(row['hi'])}"
        share = percent(row["share"]) + (f"\n{between}" if is_number(row["lo"]) else "")
        rows.append(
            [
                row["cell"],
                row["kind"],
                integer(row["d_sae"]),
                f"{row['sparsity']:g}" if is_number(row["sparsity"]) else MISSING,
                number(row["l0"], 1),
                percent(row["explained_variance"]),
                share if row["given"] else MISSING,
                percent(row["ceiling"]),
                percent(row["share_back"]),
                percent(row["share_stable"]),
                "given" if row["given"] else f"withheld: {row['reason']}",
            ]
        )
        links.append(f"../cells/{row['cell']}/report/index.html")
    caption = f"Features of {model} looked for in {other}"
    return ShownTable(caption, COLUMNS, rows, range(2, 10), links=links)
