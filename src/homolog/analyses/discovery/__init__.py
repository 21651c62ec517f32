"""Do gradients over all edges at once find the same parts, and tell their real effects?

A measure of each model that does induction, beside what path patching named in it.
"""

from __future__ import annotations

from homolog.analyses.analysis import Analysis, each_model
from homolog.analyses.discovery.figures import edge_figure, section_values
from homolog.analyses.work import Work
from homolog.record.circuits import DISCOVERED
from homolog.record.tables import CIRCUITS, DISCOVERIES, EDGES, ROLES

PASSES = 40
"""Over the prompts of a corruption, gradients included, beside one for each validated edge."""


def _seconds(work: Work, model: str) -> float:
    asked = work.circuits
    passes = len(DISCOVERED) * (PASSES + asked.validated_edges)
    return work.over_prompts(model, min(asked.n_prompts, asked.discovery_prompts), passes)


ANALYSIS = Analysis(
    "discovery",
    "score all edges of induction",
    tables=(DISCOVERIES, EDGES),
    reads=(CIRCUITS, ROLES),
    wanted=lambda recipe: (
        recipe.circuits is not None
        and recipe.circuits.traced
        and recipe.circuits.discovery_prompts > 0
    ),
    units=each_model,
    measure="homolog.analyses.discovery.measure:measure_model",
    units_may_fail=True,
    seconds=_seconds,
    page="circuits",
    chapter="Discovery",
    figures=lambda records: [edge_figure(records)],
    values=section_values,
)
