"""Are the spaces of two blocks alike: their residual streams, and their decoder directions?"""

from __future__ import annotations

from pathlib import Path

from homolog.analyses.analysis import Analysis
from homolog.analyses.spaces.figures import spaces_figure

ANALYSIS = Analysis(
    "spaces",
    chapter="Depth",
    figures=lambda records: [spaces_figure(records)],
    folder=Path(__file__).parent,
)
