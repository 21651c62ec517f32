"""Can one model's residual stream stand in for the other's?"""

from __future__ import annotations

from pathlib import Path

from homolog.analyses.analysis import Analysis, each_direction, interpreted
from homolog.analyses.material import Material
from homolog.analyses.transplant.section import values
from homolog.record.tables import LAYERS, TRANSPLANT


def _left_out(material: Material) -> str | None:
    if material.n_documents("quality") > 1:
        return None
    return (
        "residuals are not transplanted: a map is fitted on some documents and tested on others, "
        "and corpus.quality_tokens hold one"
    )


ANALYSIS = Analysis(
    name="transplant",
    title="transplant residuals",
    tables=(TRANSPLANT,),
    reads=(LAYERS,),
    wanted=interpreted("transplant"),
    left_out=_left_out,
    units=each_direction,
    measure="homolog.analyses.transplant.measure:measure_pair",
    chapter="Meaning",
    values=values,
    folder=Path(__file__).parent,
)
