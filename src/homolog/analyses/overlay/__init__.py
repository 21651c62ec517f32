"""What does its best partner do on the text on which a feature fires most, and the other way?"""

from __future__ import annotations

from homolog.analyses.analysis import Analysis, each_layer, interpreted
from homolog.record.tables import FEATURES, MATCHES, OVERLAY

OVERLAID = 0.2e-3  # seconds a feature and model of partners
ANALYSIS = Analysis(
    name="overlay",
    title="lay activations over each other",
    tables=(OVERLAY,),
    reads=(MATCHES, FEATURES),  # the examples are written with `features`
    wanted=interpreted("top"),
    units=each_layer,
    measure="homolog.analyses.overlay.measure:measure_layer",
    seconds=lambda work: work.n_features * work.partners * OVERLAID,
    chapter="Meaning",
)
