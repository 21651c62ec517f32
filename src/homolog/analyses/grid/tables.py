"""Every cell of a grid in numbers, with the way to its own report."""

from __future__ import annotations

from homolog.analyses.grid.records import GridRecords
from homolog.analyses.records import Row
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import MISSING, integer, is_number, number, percent

CELLS: Cells = {
    "Cell": lambda row: row["cell"],
    "Kind": lambda row: row["kind"],
    "Features": lambda row: integer(row["d_sae"]),
    "Sparsity": lambda row: f"{row['sparsity']:g}" if is_number(row["sparsity"]) else MISSING,
    "L0": lambda row: number(row["l0"], 1),
    "Explained variance": lambda row: percent(row["explained_variance"]),
    "Homologs, 95% interval": lambda row: _share(row) if row["given"] else MISSING,
    "Ceiling": lambda row: percent(row["ceiling"]),
    "Partner back in all seeds": lambda row: percent(row["share_back"]),
    "Homolog, back in all seeds": lambda row: percent(row["share_stable"]),
    "Verdict": lambda row: "given" if row["given"] else f"withheld: {row['reason']}",
}


def cell_table(records: GridRecords, model: str, other: str) -> ShownTable:
    """The cells of one direction, in the order in which they ran."""
    rows = records.cells.filter(model=model, best_model=other).to_dicts()
    links = [f"../cells/{row['cell']}/report/index.html" for row in rows]
    caption = f"Features of {model} looked for in {other}"
    return ShownTable.of(caption, CELLS, rows, numeric=range(2, 10), links=links)


def _share(row: Row) -> str:
    between = f"\n{percent(row['lo'])} to {percent(row['hi'])}" if is_number(row["lo"]) else ""
    return percent(row["share"]) + between
