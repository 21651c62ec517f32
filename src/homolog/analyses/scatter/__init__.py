"""What do a feature and its best partner do at the same tokens?"""

from __future__ import annotations

from homolog.analyses.analysis import Analysis, each_layer, interpreted
from homolog.record.tables import MATCHES, SCATTER

PAIRED = 0.3e-6  # seconds an activation
ANALYSIS = Analysis(
    name="scatter",
    title="pair activations",
    tables=(SCATTER,),
    reads=(MATCHES,),
    wanted=interpreted(),
    units=each_layer,
    measure="homolog.analyses.scatter.measure:measure_layer",
    seconds=lambda work: work.activations * work.shared * PAIRED,
    chapter="Meaning",
)
