"""Are features that are well matched simpler?"""

from __future__ import annotations

from pathlib import Path

from homolog.analyses.analysis import Analysis, interpreted, whole
from homolog.analyses.relation.figures import figures
from homolog.analyses.relation.section import values
from homolog.record.tables import CURVES, FEATURES, MATCHES, RATINGS, RELATION

ANALYSIS = Analysis(
    name="relation",
    title="relate matches to meaning",
    tables=(RELATION, CURVES),
    reads=(MATCHES, FEATURES, RATINGS),
    wanted=interpreted(),
    units=whole,
    measure="homolog.analyses.relation.measure:measure_study",
    chapter="Meaning",
    figures=figures,
    values=values,
    folder=Path(__file__).parent,
)
