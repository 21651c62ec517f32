"""Which features does only one of two models have, and are they really alone?

The lists name the best shared and the exclusive features; the exclusive ones are regressed on all
features of the other model.
"""

from __future__ import annotations

from pathlib import Path

from homolog.analyses.analysis import Analysis, each_direction_with_homologs, interpreted
from homolog.analyses.exclusive.section import values
from homolog.record.tables import LISTS, MATCHES, SAES

ANALYSIS = Analysis(
    name="exclusive",
    title="regress exclusive features",
    tables=(LISTS,),
    reads=(MATCHES, SAES),
    wanted=interpreted("listed"),
    units=each_direction_with_homologs,
    measure="homolog.analyses.exclusive.measure:measure_pair",
    chapter="Meaning",
    values=values,
    folder=Path(__file__).parent,
)
