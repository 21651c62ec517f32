"""Which features of all models fire alike: a place in the plane for each."""

from __future__ import annotations

from itertools import combinations

from homolog.analyses.analysis import Analysis, interpreted, whole
from homolog.analyses.material import Material
from homolog.analyses.work import CELL
from homolog.record.tables import MAP


def _left_out(material: Material) -> str | None:
    names = [model.name for model in material.compared]
    if all(material.texts_of(a, b) is None for a, b in combinations(names, 2)):
        return None
    return "the map of features needs models that read the same tokens, and their tokenizers differ"


ANALYSIS = Analysis(
    name="map",
    title="map features",
    tables=(MAP,),
    wanted=interpreted(),
    left_out=_left_out,
    units=whole,
    measure="homolog.analyses.map.measure:measure_map",
    seconds=lambda work: work.n_features**2 * CELL,
    chapter="Meaning",
)
