"""Do matched features do the same?

Each is ablated and steered in its own model, and the effects on the next token are compared:

    pairs       matched features and their controls, and the tokens where to intervene
    effects     how the two models' next-token distributions change there, together
    agreement   the correlation of both changes over the tokens of a pair
    shares      how many matched pairs agree more than their controls do
"""

from __future__ import annotations

from pathlib import Path

from homolog.analyses.analysis import Analysis, each_direction_with_homologs, interpreted
from homolog.analyses.causal.figures import figures, values
from homolog.record.tables import CAUSAL, CAUSAL_SHARES, MATCHES

ANALYSIS = Analysis(
    name="causal",
    title="ablate and steer matched features",
    tables=(CAUSAL, CAUSAL_SHARES),
    reads=(MATCHES,),
    wanted=interpreted("causal_pairs"),
    units=each_direction_with_homologs,
    measure="homolog.analyses.causal.measure:measure_pair",
    says="homolog.analyses.causal.shares:says",
    chapter="Meaning",
    figures=figures,
    values=values,
    folder=Path(__file__).parent,
)
