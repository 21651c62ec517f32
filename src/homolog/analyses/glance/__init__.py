"""At a glance: how much is shared, how much do controls explain, and what does it look like?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homolog.analyses.analysis import Analysis
from homolog.analyses.glance.examples import examples
from homolog.analyses.glance.figure import answer_figure
from homolog.analyses.records import PairRecords
from homolog.analyses.verdict.doubts import doubts


def _values(records: PairRecords) -> Mapping[str, Any] | None:
    return {"examples": examples(records), "doubts": doubts(records)}


ANALYSIS = Analysis(
    "glance",
    chapter="At a glance",
    home=True,
    figures=lambda records: (answer_figure(records),),
    values=_values,
)
