"""Off by one: does the position of B carry it, or the one after it?"""

from __future__ import annotations

from pathlib import Path

from homolog.analyses.analysis import Analysis
from homolog.analyses.offsets.figures import offset_figure, offset_table

ANALYSIS = Analysis(
    "offsets",
    page="circuits",
    chapter="Off by one",
    figures=lambda records: [offset_figure(records)],
    values=lambda records: {"verdicts": offset_table(records)} if records.able else None,
    folder=Path(__file__).parent,
)
