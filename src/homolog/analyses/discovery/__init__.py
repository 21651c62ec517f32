"""Do gradients over all edges at once find the same parts, and tell their real effects?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homolog.analyses.analysis import Analysis
from homolog.analyses.discovery.figures import correlation_table, edge_figure, edge_tables
from homolog.analyses.induction.records import CircuitRecords


def _values(records: CircuitRecords) -> Mapping[str, Any] | None:
    if not records.able:
        return None
    return {"correlations": correlation_table(records), "edges": edge_tables(records)}


ANALYSIS = Analysis(
    "discovery",
    page="circuits",
    chapter="Discovery",
    figures=lambda records: [edge_figure(records)],
    values=_values,
    folder=Path(__file__).parent,
)
