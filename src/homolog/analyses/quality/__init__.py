"""How good are the dictionaries?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homolog.analyses.analysis import Analysis
from homolog.analyses.quality.figures import quality_figure
from homolog.analyses.quality.tables import dictionary_tables
from homolog.analyses.records import PairRecords


def _values(records: PairRecords) -> Mapping[str, Any]:
    own, others = dictionary_tables(records)
    return {"own": own, "others": others}


ANALYSIS = Analysis(
    "quality",
    chapter="Dictionaries",
    figures=lambda records: [quality_figure(records)],
    values=_values,
    folder=Path(__file__).parent,
)
