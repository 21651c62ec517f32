"""What a study asks of its models: one folder per question, from the measure to the report.

`ANALYSES` has them in the order in which they run and stand in the report.
"""

from __future__ import annotations

from homolog.analyses import (
    causal,
    exclusive,
    features,
    left_context,
    ratings,
    relation,
    scatter,
    transplant,
)
from homolog.analyses.analysis import Analysis

ANALYSES: list[Analysis] = [
    left_context.ANALYSIS,
    features.ANALYSIS,
    scatter.ANALYSIS,
    relation.ANALYSIS,
    causal.ANALYSIS,
    exclusive.ANALYSIS,
    transplant.ANALYSIS,
    ratings.ANALYSIS,
]


def register(analysis: Analysis) -> None:
    """Add an analysis to every study and report from now on.  ValueError if its name is taken."""
    if any(known.name == analysis.name for known in ANALYSES):
        raise ValueError(f"an analysis named {analysis.name!r} is there already")
    ANALYSES.append(analysis)


__all__ = ["ANALYSES", "Analysis", "register"]
