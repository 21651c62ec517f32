"""Every figure of the pages of a comparison, in their order; one without rows is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from homolog.analyses.records import PairRecords, StudyRecords
from homolog.charts.figure import Figure
from homolog.report.calibration_charts import calibration_figure, criteria_figure, variance_figure
from homolog.report.layer_charts import depth_figure, layer_figure, spaces_figure
from homolog.report.match_charts import (
    distribution_figure,
    neuron_figure,
    share_figure,
    summary_figure,
)
from homolog.report.meaning import causal_figure, relation_figure
from homolog.report.overview import shared_figure
from homolog.report.run_charts import quality_figure, stage_figure

__all__ = ["Figure", "pair_figures", "run_figures"]


def pair_figures(records: PairRecords) -> list[Figure]:
    """The figures about two models."""
    makers: Sequence[Callable[[PairRecords], Figure | None]] = (
        criteria_figure,
        summary_figure,
        calibration_figure,
        distribution_figure,
        share_figure,
        neuron_figure,
        layer_figure,
        spaces_figure,
        depth_figure,
        relation_figure,
        causal_figure,
        quality_figure,
    )
    return [figure for make in makers if (figure := make(records)) is not None]


def run_figures(records: StudyRecords) -> list[Figure]:
    """The figures about the whole run, of which that of all pairs is for more than two models."""
    makers: Sequence[Callable[[StudyRecords], Figure | None]] = (variance_figure, stage_figure)
    if len(records.compared) > 2:
        makers = (shared_figure, *makers)
    return [figure for make in makers if (figure := make(records)) is not None]
