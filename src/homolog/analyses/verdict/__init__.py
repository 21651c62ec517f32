"""How much of one model does the other compute too, and do the controls bear that out?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homolog.analyses.analysis import Analysis
from homolog.analyses.records import PairRecords
from homolog.analyses.verdict.cards import cards
from homolog.analyses.verdict.figures import criteria_figure, summary_figure
from homolog.analyses.verdict.order import checks, follow_a_token, neurons_by_token
from homolog.analyses.verdict.summary_tables import summary_tables
from homolog.charts.words import CLOSE
from homolog.record.comparisons import NEURON, RANDOM_MODEL, comparison_of, in_order


def _values(records: PairRecords) -> Mapping[str, Any]:
    order = checks(records)
    weak = [check.comparison for check in order if check.outcome in ("weakly", "no")]
    run = [comparison_of(name) for name in records.comparisons("sae")]
    return {
        "cards": cards(records),
        "baselines": [c.in_sentence() for c in run if c.role == "baseline"],
        "checks": order,
        "close": CLOSE,
        "token_shares": follow_a_token(records) if RANDOM_MODEL in weak else [],
        "neuron_shares": neurons_by_token(records) if any(c.kind == NEURON for c in weak) else [],
        "comparisons": [comparison_of(name) for name in in_order(records.summary["comparison"])],
        "tables": summary_tables(records),
    }


ANALYSIS = Analysis(
    "verdict",
    chapter="Result",
    figures=lambda records: (criteria_figure(records), summary_figure(records)),
    values=_values,
    folder=Path(__file__).parent,
)
