"""Activations of a feature beside those of its best partner, on tokens where either fires, for a
scatter.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from homolog.features import SparseFeatures

POINTS = 60
SCATTER_SCHEMA = {
    "feature": pl.Int32,
    "best_model": pl.String,
    "scatter_x": pl.List(pl.Float32),
    "scatter_y": pl.List(pl.Float32),
}


def scatter(
    own: SparseFeatures,
    matches: pl.DataFrame,
    partner: Callable[[str, int], SparseFeatures],
    *,
    points: int = POINTS,
    seed: int = 0,
) -> pl.DataFrame:
    """`SCATTER_SCHEMA`, one row a match with a partner, by partner and layer of the partner.

    own: of a layer.  matches: its rows of a comparison.  partner: features by (best_model,
    best_layer), asked for one after the other.  Points are up to `points` tokens drawn from those
    where at least one of the two fires, in the order of the stream; x: own activation, y: the
    partner's, 0 where it does not fire.
    """
    mine = own.matrix.tocsc()
    found = []
    known = matches.filter(pl.col("best_feature") >= 0).sort("best_model", "best_layer", "feature")
    for (model, layer), rows in known.group_by("best_model", "best_layer", maintain_order=True):
        theirs = partner(str(model), int(layer)).matrix.tocsc()  # type: ignore[call-overload]
        for feature, best in rows.select("feature", "best_feature").iter_rows():
            (x_rows, x), (y_rows, y) = _column(mine, feature), _column(theirs, best)
            either = np.union1d(x_rows, y_rows)
            if len(either) > points:
                rng = np.random.default_rng([seed, own.layer, feature])
                either = np.sort(rng.choice(either, points, replace=False))
            found.append(
                {
                    "feature": feature,
                    "best_model": str(model),
                    "scatter_x": _values(x_rows, x, either),
                    "scatter_y": _values(y_rows, y, either),
                }
            )
    return pl.DataFrame(found, schema=SCATTER_SCHEMA)


def _column(matrix, feature: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows ascending, values) of a column."""
    inside = slice(matrix.indptr[feature], matrix.indptr[feature + 1])
    return matrix.indices[inside], matrix.data[inside]


def _values(rows: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> list[float]:
    at = np.searchsorted(rows, wanted).clip(max=max(len(rows) - 1, 0))
    hit = rows[at] == wanted if len(rows) else np.zeros(len(wanted), bool)
    return [float(values[i]) if there else 0.0 for i, there in zip(at, hit, strict=True)]
