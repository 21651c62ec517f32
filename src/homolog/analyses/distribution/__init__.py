"""How close is the closest partner, of features and of single neurons?"""

from __future__ import annotations

from pathlib import Path

from homolog.analyses.analysis import Analysis
from homolog.analyses.distribution.ridges import distribution_figure, neuron_figure
from homolog.analyses.distribution.shares import share_figure

ANALYSIS = Analysis(
    "distribution",
    chapter="Distributions",
    figures=lambda records: (
        distribution_figure(records),
        share_figure(records),
        neuron_figure(records),
    ),
    folder=Path(__file__).parent,
)
