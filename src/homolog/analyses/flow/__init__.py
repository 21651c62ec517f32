"""Where in a model are its features born, which layers keep them, and where do they end?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homolog.analyses.analysis import Analysis, Unit, each_direction, interpreted, one_document
from homolog.analyses.flow.figures import flow_figure, flow_rows, weights_table
from homolog.analyses.material import Material
from homolog.analyses.records import PairRecords
from homolog.analyses.work import Work
from homolog.record.tables import BY_WEIGHTS, FLOW, LAYERS, MATCHES

FITTED_TOKENS = 16_384
"""First of the held-out text, on which two models are turned onto each other: four and more a
dimension of most models."""


def _seconds(work: Work) -> float:
    """Every layer with the next and with documents exchanged; residuals of every pair of models."""
    tokens = min(work.asked.flow_tokens, work.recipe.corpus.match_tokens)
    return 2 * work.neighbours(tokens) + (work.n_models - 1) * work.read(FITTED_TOKENS)


def _units(material: Material) -> list[Unit]:
    """Each model with itself, and each pair once."""
    models = [(model.name, model.name) for model in material.compared]
    return [*models, *((a, b) for a, b in each_direction(material) if a < b)]


def values(records: PairRecords) -> Mapping[str, Any] | None:
    """What the template is filled with; None where no flow was measured."""
    rows = flow_rows(records)
    return {"flow": rows, "weights": weights_table(records)} if rows else None


ANALYSIS = Analysis(
    name="flow",
    title="follow features through layers",
    tables=(FLOW, BY_WEIGHTS),
    reads=(MATCHES, LAYERS),
    wanted=interpreted("flow_tokens"),
    left_out=one_document(
        "match",
        "features are not followed through layers: chance is told by exchanging documents, and "
        "corpus.match_tokens hold one",
    ),
    units=_units,
    measure="homolog.analyses.flow.measure:measure",
    seconds=_seconds,
    chapter="Depth",
    figures=lambda records: [flow_figure(records)],
    values=values,
)
