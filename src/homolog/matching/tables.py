"""Which columns of a run's tables each part of matching makes; `record.tables` describes them."""

from __future__ import annotations

from typing import Any

import polars as pl

from homolog.record import tables
from homolog.record.tables.matching import SPACES

Schema = dict[str, Any]

FEATURE = ["model", "label", "layer", "feature"]
"""What tells features apart."""
PARTNER = [f"best_{name}" for name in FEATURE]
"""What tells partners apart."""
STABILITY: Schema = tables.MATCHES.only("other_seed_r", "back_in", "stable")
"""Columns that `stability.with_stability` adds to matches."""
TOGETHER: Schema = tables.MATCHES.only("documents")
"""What `together.documents_together` counts."""
HOMOLOGS: Schema = tables.MATCHES.only(
    "rival_r",
    "token_r2",
    "control_r",
    "beyond",
    "beyond_se",
    "beyond_q",
    "bar",
    "homolog",
    "fails",
)
"""Columns that `homologs.classify` adds to matches."""
BEYOND: Schema = tables.MATCHES.only("token_r2", "control_r", "beyond", "beyond_se") | {
    "beyond_p": pl.Float64
}
"""Columns of `beyond.beyond_controls`, of which `homologs.classify` makes its own."""
MATCHES: Schema = {
    name: kind
    for name, kind in tables.MATCHES.schema.items()
    if name not in {*STABILITY, *TOGETHER, *HOMOLOGS}
}
"""The others, which `layers.tables_of` makes; r, p and q are NaN, indices -1, where undefined."""
QUANTILES = {"q10": 0.1, "q25": 0.25, "median": 0.5, "q75": 0.75, "q90": 0.9}
LAYERS: Schema = tables.LAYERS.only(*list(tables.LAYERS.schema)[: -len(SPACES)])
"""Columns of `layers.tables_of`: those of similarity of spaces are measured apart."""
SUMMARY: Schema = tables.SUMMARY.schema
SHARED: Schema = tables.SHARED.schema
RESAMPLED: Schema = tables.RESAMPLED.schema
VARIANCE: Schema = tables.VARIANCE.schema
