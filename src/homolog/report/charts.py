"""Every figure of the page, in its order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from homolog.report.figure import Figure
from homolog.report.layer_charts import depth_figure, layer_figure
from homolog.report.match_charts import distribution_figure, neuron_figure, share_figure, summary_figure
from homolog.report.records import RunRecords
from homolog.report.run_charts import quality_figure, stage_figure

__all__ = ["Figure", "all_figures"]


def all_figures(records: RunRecords) -> list[Figure]:
    """Every figure that the records allow, in the order of the page; one without rows is left out."""
    makers: Sequence[Callable[[RunRecords], Figure | None]] = (
        summary_figure,
        distribution_figure,
        share_figure,
        neuron_figure,
        layer_figure,
        depth_figure,
        quality_figure,
        stage_figure,
    )
    return [figure for make in makers if (figure := make(records)) is not None]
