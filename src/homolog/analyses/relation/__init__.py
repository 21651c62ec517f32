"""Are features that are well matched simpler?"""

from __future__ import annotations

from pathlib import Path

from homolog.analyses.analysis import Analysis, Tables, interpreted, whole
from homolog.analyses.material import Material
from homolog.analyses.relation.figures import figures
from homolog.analyses.relation.section import values
from homolog.record.tables import CURVES, FEATURES, MATCHES, RATINGS, RELATION


def _measure(material: Material) -> Tables:
    from homolog.analyses.relation.measure import measure_study

    return measure_study(material)


ANALYSIS = Analysis(
    name="relation",
    title="relate matches to meaning",
    tables=(RELATION, CURVES),
    reads=(MATCHES, FEATURES, RATINGS),
    wanted=interpreted(),
    units=whole,
    measure=_measure,
    chapter="Meaning",
    figures=figures,
    values=values,
    folder=Path(__file__).parent,
)
