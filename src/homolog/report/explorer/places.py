"""Where the features of each model stand on the map: data/map/MODEL.js.

Columns x and y in the order of rows (rows.py), of all models in one square of side 1, as 16 bits: a
place p has the code 65534 p, and a feature without one 65535.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from homolog.report.explorer.packing import UNDEFINED, write_data
from homolog.report.explorer.rows import NO_ROW, ModelRows


def write_places(folder: Path, places: pl.DataFrame, models: Sequence[ModelRows]) -> bool:
    """Write the files of all models, if any of their features has a place; says whether.

    places: columns model, layer, feature, x and y.
    """
    known = places.filter(pl.col("model").is_in([rows.model for rows in models]))
    if known.is_empty():
        return False
    xy = known.select("x", "y").to_numpy().astype(np.float64)
    low, size = xy.min(axis=0), np.ptp(xy, axis=0)
    inside = (xy - low) / max(float(size.max()), 1e-12)
    codes = np.rint((UNDEFINED - 1) * (inside + (1 - inside.max(axis=0)) / 2)).astype(np.uint16)
    of_model = known["model"].to_numpy()
    for number, rows in enumerate(models):
        own = of_model == rows.model
        layer, feature = (
            known[name].to_numpy()[own].astype(np.int64) for name in ("layer", "feature")
        )
        at = rows.find(layer, feature)
        there = at != NO_ROW
        columns = {}
        for name, column in zip("xy", codes[own].T, strict=True):
            placed = np.full(sum(rows.sizes), UNDEFINED, np.uint16)
            placed[at[there]] = column[there]
            columns[name] = placed
        write_data(folder, f"map/{number}", columns)
    return True
