"""More than two models: the verdicts of every pair, with the way to its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homolog.analyses.analysis import Analysis
from homolog.analyses.records import StudyRecords
from homolog.charts.links import pair_pages

SECTION = """
{% for (a, b), page, verdicts in pairs %}
<h3><a href="{{ page }}.html">{{ a }} and {{ b }}</a></h3>
<div class="pair">{% for verdict in verdicts %}{{ verdict_box(verdict, 4) }}{% endfor %}</div>
{% endfor %}
"""


def _values(records: StudyRecords) -> Mapping[str, Any] | None:
    if len(records.compared) == 2:
        return None
    verdicts = [(records.verdict(a, b), records.verdict(b, a)) for a, b in records.pairs]
    return {"pairs": list(zip(records.pairs, pair_pages(records.pairs), verdicts, strict=True))}


ANALYSIS = Analysis("pairs", page="study", chapter="Pair by pair", values=_values, template=SECTION)
