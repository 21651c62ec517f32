"""Is it more than chance?"""

from __future__ import annotations

from pathlib import Path

from homolog.analyses.analysis import Analysis
from homolog.analyses.calibration.figures import calibration_figure

ANALYSIS = Analysis(
    "calibration",
    chapter="Chance",
    figures=lambda records: [calibration_figure(records)],
    folder=Path(__file__).parent,
)
