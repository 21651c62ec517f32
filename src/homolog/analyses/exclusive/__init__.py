"""Which features does only one of two models have, and are they really alone?

The lists name the best shared and the exclusive features; the exclusive ones are regressed on all
features of the other model.
"""

from __future__ import annotations

from pathlib import Path

from homolog.analyses.analysis import Analysis, Tables, each_direction_with_homologs, interpreted
from homolog.analyses.exclusive.section import values
from homolog.analyses.material import Material
from homolog.record.tables import LISTS, MATCHES, SAES


def _measure(material: Material, model: str, best_model: str) -> Tables:
    from homolog.analyses.exclusive.measure import measure_pair

    return measure_pair(material, model, best_model)


ANALYSIS = Analysis(
    name="exclusive",
    title="regress exclusive features",
    tables=(LISTS,),
    reads=(MATCHES, SAES),
    wanted=interpreted("listed"),
    units=each_direction_with_homologs,
    measure=_measure,
    chapter="Meaning",
    values=values,
    folder=Path(__file__).parent,
)
