"""What a study asks of its models: one folder per question, from the measure to the report.

`ANALYSES` has them in the order in which they run and stand in the report.
"""

from __future__ import annotations

from homolog.analyses import (
    calibration,
    causal,
    closest,
    depth,
    discovery,
    distribution,
    exclusive,
    features,
    grid,
    induction,
    layers,
    left_context,
    offsets,
    overview,
    pairs,
    quality,
    ratings,
    relation,
    scatter,
    spaces,
    transplant,
    variance,
    verdict,
)
from homolog.analyses.analysis import Analysis, each_direction, each_layer, each_model, whole
from homolog.analyses.material import Material
from homolog.analyses.records import PairRecords, Records, StudyRecords

ANALYSES: list[Analysis] = [
    grid.ANALYSIS,
    verdict.ANALYSIS,
    overview.ANALYSIS,
    pairs.ANALYSIS,
    calibration.ANALYSIS,
    variance.ANALYSIS,
    distribution.ANALYSIS,
    layers.ANALYSIS,
    spaces.ANALYSIS,
    depth.ANALYSIS,
    closest.ANALYSIS,
    left_context.ANALYSIS,
    features.ANALYSIS,
    scatter.ANALYSIS,
    relation.ANALYSIS,
    causal.ANALYSIS,
    exclusive.ANALYSIS,
    transplant.ANALYSIS,
    ratings.ANALYSIS,
    induction.SUMMARY,
    induction.ANALYSIS,
    induction.EXPERIMENTS,
    offsets.ANALYSIS,
    discovery.ANALYSIS,
    induction.METHODS,
    quality.ANALYSIS,
]


def register(analysis: Analysis) -> None:
    """Add an analysis to every study and report from now on.  ValueError if its name is taken."""
    if any(known.name == analysis.name for known in ANALYSES):
        raise ValueError(f"an analysis named {analysis.name!r} is there already")
    ANALYSES.append(analysis)


__all__ = [
    "ANALYSES",
    "Analysis",
    "Material",
    "PairRecords",
    "Records",
    "StudyRecords",
    "each_direction",
    "each_layer",
    "each_model",
    "register",
    "whole",
]
