"""What do a feature and its best partner do at the same tokens?"""

from __future__ import annotations

from homolog.analyses.analysis import Analysis, Tables, each_layer, interpreted
from homolog.analyses.material import Material
from homolog.record.tables import MATCHES, SCATTER


def _measure(material: Material, model: str, layer: int) -> Tables:
    from homolog.analyses.scatter.measure import measure_layer

    return measure_layer(material, model, layer)


ANALYSIS = Analysis(
    name="scatter",
    title="pair activations",
    tables=(SCATTER,),
    reads=(MATCHES,),
    wanted=interpreted(),
    units=each_layer,
    measure=_measure,
    chapter="Meaning",
)
