"""What does each feature mean: where does it fire, how simple is it, where does it point?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homolog.analyses.analysis import Analysis, Tables, each_layer, interpreted
from homolog.analyses.material import Material
from homolog.analyses.records import PairRecords
from homolog.charts.links import address
from homolog.record.tables import CONTEXTS, FEATURES, LEFT_CONTEXT
from homolog.record.tables.describing import FEATURE_KEY

DESCRIBED = 0.6e-6  # seconds an activation


def _finish(material: Material, tables: Tables) -> Tables:
    """With the left context that they need, where that was measured."""
    features = tables[FEATURES.name]
    if not material.has(LEFT_CONTEXT):
        return tables
    needed = material.table(LEFT_CONTEXT).select(*FEATURE_KEY, "context_tokens")
    joined = features.join(
        needed, on=FEATURE_KEY, how="left", maintain_order="left", validate="1:1"
    )
    return {**tables, FEATURES.name: joined}


def _values(records: PairRecords) -> Mapping[str, Any] | None:
    return {"explorer": address(*records.pair)} if records.explored else None


ANALYSIS = Analysis(
    name="features",
    title="describe features",
    tables=(FEATURES, CONTEXTS),
    joins=(LEFT_CONTEXT,),
    wanted=interpreted(),
    units=each_layer,
    measure="homolog.analyses.features.measure.layer:measure_layer",
    seconds=lambda work: work.activations * work.shared * DESCRIBED,
    finish=_finish,
    chapter="Meaning",
    values=_values,
)
