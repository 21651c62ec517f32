"""All layer pairs of two models: best partner, runner-up and the layer table, both directions from one pass a
pair.

For feature i of layer l of model A

    MPPC(i) = max over layers m of B, features j of m, of Pearson(f_i, f_j)     [Wang 2025], signed, over
    tokens

`match_models` calls `max_pearson` once a layer pair and merges: nothing is computed twice, and each side of a
layer is prepared once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl

from homolog.errors import InputError
from homolog.features import Activations, check_same_stream
from homolog.matching.columns import Columns, prepare
from homolog.matching.pearson import Side, max_pearson

MATCHES_SCHEMA = {
    "comparison": pl.String,
    "kind": pl.String,
    "model": pl.String,
    "layer": pl.Int32,
    "feature": pl.Int32,
    "n_active": pl.Int64,
    "freq": pl.Float64,
    "r": pl.Float32,
    "best_model": pl.String,
    "best_layer": pl.Int32,
    "best_feature": pl.Int32,
    "runner_up_r": pl.Float32,
    "runner_up_layer": pl.Int32,
    "runner_up_feature": pl.Int32,
}
LAYERS_SCHEMA = {
    "comparison": pl.String,
    "kind": pl.String,
    "model": pl.String,
    "layer": pl.Int32,
    "best_model": pl.String,
    "best_layer": pl.Int32,
    "n_features": pl.Int64,
    "n_defined": pl.Int64,
    **dict.fromkeys(("mean", "q10", "q25", "median", "q75", "q90"), pl.Float64),
}

_prepared: WeakKeyDictionary[Activations, Columns] = WeakKeyDictionary()


def columns_of(features: Activations) -> Columns:
    """`prepare(features.matrix)`, kept for as long as `features` lives: a layer meets many others."""
    if features not in _prepared:
        _prepared[features] = prepare(features.matrix, f"{features.name} layer {features.layer}")
    return _prepared[features]


@dataclass(frozen=True)
class ModelMatches:
    """Tables of one comparison, both directions.

    matches: one row a feature, `MATCHES_SCHEMA`; r and runner_up_r are NaN, indices -1, where undefined.
    layers: one row a layer pair and direction, `LAYERS_SCHEMA`: the largest r of each feature of (model,
    layer) within (best_model, best_layer), its mean and quantiles over the features where it is defined.
    """

    matches: pl.DataFrame
    layers: pl.DataFrame


def match_models(
    features_a: Sequence[Activations],
    features_b: Sequence[Activations],
    *,
    comparison: str,
    k: int = 2,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelMatches:
    """Match all layers of one model with all layers of another; also two dictionaries of the same model.

    features_a, features_b: one entry a layer, all on one token stream.  k: partners kept a layer pair, at
    least 2 (the runner-up may lie in the same layer).  progress: called with (pairs done, pairs) after each
    layer pair. Raises InputError for different token streams, sparse against dense, or an empty list.
    """
    _check(features_a, features_b, k)
    a_sides: list[list[Side]] = [[] for _ in features_a]
    b_sides: list[list[Side]] = [[] for _ in features_b]
    n_pairs = len(features_a) * len(features_b)
    for number_a, a in enumerate(features_a):
        for number_b, b in enumerate(features_b):
            best = max_pearson(columns_of(a), columns_of(b), k, threads=threads)
            a_sides[number_a].append(best.a_to_b)
            b_sides[number_b].append(best.b_to_a)
            if progress is not None:
                progress(number_a * len(features_b) + number_b + 1, n_pairs)
    matches, layers = [], []
    for own, others, sides in ((features_a, features_b, a_sides), (features_b, features_a, b_sides)):
        for features, found in zip(own, sides, strict=True):
            matches.append(_matches_of(features, others, found, comparison))
            layers.append(_layers_of(features, others, found, comparison))
    return ModelMatches(pl.concat(matches), pl.concat(layers))


def _check(features_a: Sequence[Activations], features_b: Sequence[Activations], k: int) -> None:
    if not features_a or not features_b:
        raise InputError(
            "layers of the two models",
            (len(features_a), len(features_b)),
            "both need at least one",
            "Encode one.",
        )
    check_same_stream([*features_a, *features_b])
    if k < 2:
        raise InputError("k", k, "the runner-up needs two partners a layer pair", "Give k=2.")
    kinds = {features.kind for features in (*features_a, *features_b)}
    if len(kinds) > 1:
        raise InputError(
            "kinds of features", sorted(kinds), "a comparison has one kind", "Compare features with features."
        )
    names = [{features.name for features in side} for side in (features_a, features_b)]
    if len(names[0]) > 1 or len(names[1]) > 1 or names[0] == names[1]:
        raise InputError(
            "models of the two sides",
            [sorted(side) for side in names],
            "each side is one model with one label, and the two differ",
            "Give the second dictionary of the same model its own label, such as 'seed1'.",
        )


def merge_layers(sides: Sequence[Side], k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k best over several layers: (r float32, number of the layer, feature), all (features, k), NaN and
    -1.

    Ties go to the first layer, then to the lowest feature.
    """
    r = np.concatenate([side.r for side in sides], axis=1)
    feature = np.concatenate([side.index for side in sides], axis=1)
    layer = np.repeat(np.arange(len(sides)), [side.r.shape[1] for side in sides])
    order = np.argsort(-r, axis=1, kind="stable")[:, :k]  # NaN sorts last
    best_r = np.take_along_axis(r, order, axis=1)
    best_feature = np.take_along_axis(feature, order, axis=1)
    return best_r, np.where(best_feature >= 0, layer[order], -1), best_feature


def _matches_of(
    features: Activations, others: Sequence[Activations], sides: Sequence[Side], comparison: str
) -> pl.DataFrame:
    r, number, feature = merge_layers(sides, 2)
    layer = np.where(number >= 0, np.array([other.layer for other in others])[number], -1)
    n = features.n_features
    columns = {
        "comparison": [comparison] * n,
        "kind": [features.kind] * n,
        "model": [features.name] * n,
        "layer": np.full(n, features.layer),
        "feature": np.arange(n),
        "n_active": features.statistics.n_active,
        "freq": features.statistics.freq,
        "r": r[:, 0],
        "best_model": [others[0].name] * n,
        "best_layer": layer[:, 0],
        "best_feature": feature[:, 0],
        "runner_up_r": r[:, 1],
        "runner_up_layer": layer[:, 1],
        "runner_up_feature": feature[:, 1],
    }
    return pl.DataFrame(columns).cast(MATCHES_SCHEMA)  # type: ignore[arg-type]


def _layers_of(
    features: Activations, others: Sequence[Activations], sides: Sequence[Side], comparison: str
) -> pl.DataFrame:
    rows = []
    for other, side in zip(others, sides, strict=True):
        r = side.r[:, 0].astype(np.float64)
        r = r[~np.isnan(r)]
        quantiles = np.quantile(r, [0.1, 0.25, 0.5, 0.75, 0.9]) if len(r) else np.full(5, np.nan)
        mean = r.mean() if len(r) else np.nan
        rows.append(
            (
                comparison,
                features.kind,
                features.name,
                features.layer,
                other.name,
                other.layer,
                features.n_features,
                len(r),
                float(mean),
                *(float(q) for q in quantiles),
            )
        )
    return pl.DataFrame(rows, schema=LAYERS_SCHEMA, orient="row")  # type: ignore[arg-type]
