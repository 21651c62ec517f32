"""What the rows of several figures and tables share."""

from __future__ import annotations

import numpy as np
import polars as pl

from homolog.analyses.records import PairRecords
from homolog.charts.links import address
from homolog.record.comparisons import NEURON


def panel(records: PairRecords, side: str, kind: str = "sae") -> str:
    """The heading of one direction."""
    return f"{'Neurons' if kind == NEURON else 'Features'} of {records.model_of(side)}"


def directions(records: PairRecords) -> list[tuple[str, str, str]]:
    """Both sides: ("A", model A, model B) and ("B", model B, model A)."""
    return [(side, records.model_of(side), records.partner_of(side)) for side in "AB"]


def defined_r(records: PairRecords, comparison: str, side: str) -> np.ndarray:
    """Best correlations of the defined features, float64 (features,)."""
    rows = records.matches.filter(comparison=comparison, side=side)
    r = rows.get_column("r").cast(pl.Float64).to_numpy()
    return r[np.isfinite(r)]


def layer_link(records: PairRecords, side: str, *, layer: int, to: int | None = None) -> dict:
    """`link`, to the features of a layer in the explorer, if the run has one."""
    if not records.explored:
        return {}
    models = (records.model_of(side), records.partner_of(side))
    return {"link": address(*models, layer=layer, to_layer=to)}


def feature_links(records: PairRecords, side: str, rows: pl.DataFrame) -> list[str]:
    """The explorer's address of each feature of the rows; none where there is no explorer."""
    models = (records.model_of(side), records.partner_of(side))
    places = rows.select("layer", "feature").iter_rows() if records.explored else ()
    return [address(*models, feature=(int(layer), int(feature))) for layer, feature in places]
