"""A grid: does the verdict depend on the kind, the sparsity and the width of the dictionaries?"""

from __future__ import annotations

from homolog.analyses.analysis import Analysis
from homolog.analyses.grid.figures import grid_figure
from homolog.analyses.grid.records import GridRecords, read_grid
from homolog.analyses.grid.tables import cell_table

__all__ = ["ANALYSIS", "GridRecords", "read_grid"]

ANALYSIS = Analysis(
    "grid",
    page="grid",
    chapter="The verdict over L0",
    figures=lambda records: [grid_figure(records)],
    values=lambda records: {"cells": [cell_table(records, *way) for way in records.directions]},
)
