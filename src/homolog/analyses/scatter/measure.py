"""Activations of a feature beside those of its best partner, where either fires, for a scatter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import polars as pl

from homolog.analyses.analysis import Tables
from homolog.analyses.material import Material
from homolog.analyses.stream import entries_of
from homolog.features import SparseFeatures
from homolog.record.comparisons import MAIN
from homolog.record.tables import MATCHES, SCATTER

POINTS = 60


def measure_layer(material: Material, model: str, layer: int) -> Tables:
    """Task: the features of a layer beside their best partners of the main comparison."""
    matches = material.table(MATCHES).filter(comparison=MAIN.name, model=model, layer=layer)
    parts = [SCATTER.frame()]
    for partner in matches["best_model"].drop_nulls().unique().sort():
        own = material.features(model, layer, beside=partner)
        others = partial(material.features, beside=model)
        of_partner = matches.filter(best_model=partner)
        parts.append(scatter(own, of_partner, others, seed=material.seed))
    return {SCATTER.name: pl.concat(parts)}


def scatter(
    own: SparseFeatures,
    matches: pl.DataFrame,
    partner: Callable[[str, int], SparseFeatures],
    *,
    points: int = POINTS,
    seed: int = 0,
) -> pl.DataFrame:
    """Rows of `SCATTER`, one per match with a partner, by partner and layer of the partner.

    own: of a layer.  matches: its rows of a comparison.  partner: features by (best_model,
    best_layer), asked for one after the other.  Points are up to `points` tokens drawn from those
    where at least one of the two fires, in the order of the stream; x: own activation, y: the
    partner's, 0 where it does not fire.
    """
    mine = own.matrix.tocsc()
    pairs = []
    known = matches.filter(pl.col("best_feature") >= 0).sort("best_model", "best_layer", "feature")
    for (model, layer), rows in known.group_by("best_model", "best_layer", maintain_order=True):
        theirs = partner(str(model), int(layer)).matrix.tocsc()  # type: ignore[call-overload]
        for feature, best in rows.select("feature", "best_feature").iter_rows():
            (x_rows, x), (y_rows, y) = entries_of(mine, feature), entries_of(theirs, best)
            either = np.union1d(x_rows, y_rows)
            if len(either) > points:
                rng = np.random.default_rng([seed, own.layer, feature])
                either = np.sort(rng.choice(either, points, replace=False))
            values = {"scatter_x": _at(either, x_rows, x), "scatter_y": _at(either, y_rows, y)}
            pairs.append({"feature": feature, "best_model": str(model)} | values)
    return SCATTER.frame(pairs)


def _at(wanted: np.ndarray, rows: np.ndarray, values: np.ndarray) -> list[float]:
    at = np.searchsorted(rows, wanted).clip(max=max(len(rows) - 1, 0))
    hit = rows[at] == wanted if len(rows) else np.zeros(len(wanted), bool)
    return [float(values[i]) if there else 0.0 for i, there in zip(at, hit, strict=True)]
