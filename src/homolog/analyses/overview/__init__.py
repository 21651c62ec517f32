"""More than two models: how much does each share with each other?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homolog.analyses.analysis import Analysis
from homolog.analyses.overview.figures import shared_figure, shared_table
from homolog.analyses.records import StudyRecords


def _values(records: StudyRecords) -> Mapping[str, Any] | None:
    return {"shared": shared_table(records)} if len(records.compared) > 2 else None


ANALYSIS = Analysis(
    "overview",
    page="study",
    chapter="Result",
    figures=lambda records: [shared_figure(records)],
    values=_values,
    folder=Path(__file__).parent,
)
