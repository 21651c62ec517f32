"""What a study asks of its models: one folder per question, from the measure to the report.

`ANALYSES` has them in the order in which they run and stand in the report.
"""

from __future__ import annotations

from pkgutil import resolve_name

from homolog.analyses.analysis import Analysis, each_direction, each_layer, each_model, whole
from homolog.analyses.material import Material
from homolog.analyses.records import PairRecords, Records, StudyRecords

_LISTED = (
    "grid",
    "glance",
    "induction:SUMMARY",
    "verdict",
    "verdict:CONTROLS",
    "revisions",
    "overview",
    "tree",
    "overview:PAIRS",
    "calibration",
    "variance",
    "distribution",
    "layers",
    "spaces",
    "space_null",
    "depth",
    "flow",
    "closest",
    "left_context",
    "features",
    "scatter",
    "overlay",
    "map",
    "relation",
    "causal",
    "exclusive",
    "transplant",
    "alignment_search",
    "crosscoder",
    "ratings",
    "witnesses",
    "induction",
    "induction:EXPERIMENTS",
    "induction:POSITIONS",
    "offsets",
    "discovery",
    "task_circuits",
    "induction:METHODS",
    "quality",
)
"""Modules of this package with an `ANALYSIS`, or module and name of another one in it."""

ANALYSES: list[Analysis] = [
    resolve_name(f"homolog.analyses.{name if ':' in name else f'{name}:ANALYSIS'}")
    for name in _LISTED
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
