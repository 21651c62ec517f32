"""Which features are the closest homologs?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homolog.analyses.analysis import Analysis
from homolog.analyses.closest.tables import ENOUGH_TOKENS, closest
from homolog.analyses.records import PairRecords


def _values(records: PairRecords) -> Mapping[str, Any]:
    return {"tables": [closest(records, side) for side in "AB"], "enough": ENOUGH_TOKENS}


ANALYSIS = Analysis(
    "closest",
    chapter="The closest homologs",
    values=_values,
    folder=Path(__file__).parent,
)
