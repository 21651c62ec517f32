"""Which methods say that a feature of one model is in another, and how far do they agree?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homolog.analyses.analysis import Analysis, each_direction
from homolog.analyses.records import PairRecords
from homolog.analyses.witnesses.figures import agreement_figure, agreement_table, shares_table
from homolog.analyses.witnesses.rules import ALL
from homolog.record.tables import FLOW, WITNESS_AGREEMENT, WITNESSES


def wanted(recipe: Any) -> bool:
    """Whether a recipe asks for a witness beside the verdict."""
    more = (getattr(recipe, name, None) for name in ("interpretation", "crosscoder"))
    return any(table is not None for table in more)


def values(records: PairRecords) -> Mapping[str, Any] | None:
    """What the template is filled with; None where no two witnesses spoke of one feature."""
    if records.table(WITNESS_AGREEMENT).is_empty():
        return None
    return {"agreement": agreement_table(records), "shares": shares_table(records)}


ANALYSIS = Analysis(
    name="witnesses",
    title="hear all witnesses",
    tables=(WITNESSES, WITNESS_AGREEMENT),
    reads=(*dict.fromkeys(witness.table for witness in ALL), FLOW),
    wanted=wanted,
    units=each_direction,
    measure="homolog.analyses.witnesses.measure:measure_pair",
    chapter="Witnesses",
    asks="Do several methods say the same of a feature?",
    figures=lambda records: [agreement_figure(records)],
    values=values,
)
