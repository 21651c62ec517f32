"""What do the best correlations vary with?"""

from __future__ import annotations

from pathlib import Path

from homolog.analyses.analysis import Analysis
from homolog.analyses.variance.figures import variance_figure

ANALYSIS = Analysis(
    "variance",
    page="study",
    chapter="Chance",
    figures=lambda records: [variance_figure(records)],
    folder=Path(__file__).parent,
)
