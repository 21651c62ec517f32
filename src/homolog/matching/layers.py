"""All layer pairs of two models: best partner, runner-up and the layer table, both directions from
one pass a pair.

For feature i of layer l of model A

    MPPC(i) = max over layers m of B, features j of m, of Pearson(f_i, f_j)  [Wang 2025], signed,
    over tokens

`match_models` matches one pair of layers after the other (`pairs.match_pair`), all in memory;
`tables_of` merges pairs wherever they were worked out.  It reads of a layer only its names and
statistics, never its activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl

from homolog.errors import InputError
from homolog.features import Activations, StoredFeatures, check_same_stream
from homolog.matching.assignment import mutual, one_to_one
from homolog.matching.columns import Columns, prepare
from homolog.matching.null import calibrate
from homolog.matching.pairs import PairMatch, match_pair
from homolog.matching.pearson import Side

CANDIDATES = 8  # best partners over all layers from which one-to-one partners are chosen

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
    "null_r": pl.Float32,
    "threshold": pl.Float32,
    "p": pl.Float64,
    "q": pl.Float64,
    "excess": pl.Float32,
    "mutual": pl.Boolean,
    "partner_r": pl.Float32,
    "partner_layer": pl.Int32,
    "partner_feature": pl.Int32,
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


Layer = Activations | StoredFeatures  # a layer's features, in memory or on disk


@dataclass(frozen=True)
class ModelMatches:
    """Tables of one comparison, both directions.

    matches: one row a feature, `MATCHES_SCHEMA`; r and runner_up_r are NaN, indices -1, where
    undefined.
    layers: one row a layer pair and direction, `LAYERS_SCHEMA`: the largest r of each feature of
    (model, layer) within (best_model, best_layer), its mean and quantiles over the features where
    it is defined.
    """

    matches: pl.DataFrame
    layers: pl.DataFrame


def match_models(
    features_a: Sequence[Activations],
    features_b: Sequence[Activations],
    *,
    comparison: str,
    k: int = 2,
    exchanges: Sequence[np.ndarray] | np.ndarray = (),
    fdr: float = 0.01,
    threads: int | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> ModelMatches:
    """Match all layers of one model with all layers of another; also two dictionaries of the same
    model.

    features_a, features_b: one entry a layer, all on one token stream.  k: partners kept a layer
    pair, at least 2 (the runner-up may lie in the same layer).  exchanges: orders of the tokens of
    B for the null of the maximum (`document_exchanges`).  fdr: see `calibrate`.  progress: called
    with (pairs done, pairs) after each layer pair. Raises InputError for different token streams,
    sparse against dense, or an empty list.
    """
    check_layers(features_a, features_b, k)
    n_pairs = len(features_a) * len(features_b)
    pairs: list[list[PairMatch]] = []
    for number_a, a in enumerate(features_a):
        pairs.append([])
        for number_b, b in enumerate(features_b):
            found = match_pair(
                columns_of(a), columns_of(b), k, exchanges=exchanges, threads=threads, device=device
            )
            pairs[-1].append(found)
            if progress is not None:
                progress(number_a * len(features_b) + number_b + 1, n_pairs)
    return tables_of(features_a, features_b, pairs, comparison=comparison, fdr=fdr)


def tables_of(
    layers_a: Sequence[Layer],
    layers_b: Sequence[Layer],
    pairs: Sequence[Sequence[PairMatch]],
    *,
    comparison: str,
    fdr: float = 0.01,
) -> ModelMatches:
    """Both tables from the finished pairs: pairs[i][j] is of layers_a[i] and layers_b[j]."""
    turned = [[row[j].reversed for row in pairs] for j in range(len(layers_b))]
    sides = [
        _Direction.of(a, b, found)
        for a, b, found in ((layers_a, layers_b, pairs), (layers_b, layers_a, turned))
    ]
    best = [side.candidates[0] for side in sides]
    partners: list[tuple[np.ndarray, np.ndarray] | None] = [None, None]
    if sides[0].null.shape[1]:
        found = one_to_one(*sides[0].candidates, *sides[1].candidates)
        partners = [(found.a, found.r_a), (found.b, found.r_b)]
    matches, layers = [], []
    for number, side in enumerate(sides):
        is_mutual = mutual(best[number][:, 0], best[1 - number][:, 0])
        matches.append(side.matches(comparison, fdr, is_mutual, partners[number]))
        layers.append(side.layers(comparison))
    return ModelMatches(pl.concat(matches), pl.concat(layers))


def check_layers(features_a: Sequence[Layer], features_b: Sequence[Layer], k: int) -> None:
    """Raise InputError unless these are the layers of two models, of one kind, on one stream of
    tokens.
    """
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
            "kinds of features",
            sorted(kinds),
            "a comparison has one kind",
            "Compare features with features.",
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
    """The k best over several layers: (r float32, number of the layer, feature), all (features, k),
    NaN and -1.

    Ties go to the first layer, then to the lowest feature.
    """
    r = np.concatenate([side.r for side in sides], axis=1)
    feature = np.concatenate([side.index for side in sides], axis=1)
    layer = np.repeat(np.arange(len(sides)), [side.r.shape[1] for side in sides])
    order = np.argsort(-r, axis=1, kind="stable")[:, :k]  # NaN sorts last
    best_r = np.take_along_axis(r, order, axis=1)
    best_feature = np.take_along_axis(feature, order, axis=1)
    return best_r, np.where(best_feature >= 0, layer[order], -1), best_feature


@dataclass(frozen=True, eq=False)
class _Direction:
    """The features of one side, all its layers one after the other, and what they find in the other
    side.

    r, feature: (features, CANDIDATES), `number` the place of the partner's layer in `others`; NaN
    and -1 where undefined.  null: (features, exchanges).
    """

    own: Sequence[Layer]
    others: Sequence[Layer]
    pairs: Sequence[Sequence[PairMatch]]
    r: np.ndarray
    number: np.ndarray
    feature: np.ndarray
    null: np.ndarray

    @classmethod
    def of(
        cls, own: Sequence[Layer], others: Sequence[Layer], pairs: Sequence[Sequence[PairMatch]]
    ) -> _Direction:
        merged = [merge_layers([pair.a_to_b for pair in row], CANDIDATES) for row in pairs]
        r, number, feature = (np.concatenate([part[i] for part in merged]) for i in range(3))
        null = np.concatenate([np.fmax.reduce([pair.null_a for pair in row]) for row in pairs])
        return cls(own, others, pairs, r, number, feature, null)

    @property
    def candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """(feature of the other side numbered through all its layers, int64, -1 for none; r)."""
        start = np.concatenate([[0], np.cumsum([layer.n_features for layer in self.others])])
        return np.where(self.feature >= 0, start[self.number] + self.feature, -1), self.r

    def matches(
        self,
        comparison: str,
        fdr: float,
        is_mutual: np.ndarray,
        partner: tuple[np.ndarray, np.ndarray] | None,
    ) -> pl.DataFrame:
        own, n = self.own[0], [layer.n_features for layer in self.own]
        n_active = np.concatenate([layer.statistics.n_active for layer in self.own])
        layer = np.where(
            self.number >= 0, np.array([other.layer for other in self.others])[self.number], -1
        )
        columns = {
            "comparison": [comparison] * sum(n),
            "kind": [own.kind] * sum(n),
            "model": [own.name] * sum(n),
            "layer": np.repeat([layer.layer for layer in self.own], n),
            "feature": np.concatenate([np.arange(width) for width in n]),
            "n_active": n_active,
            "freq": np.concatenate([layer.statistics.freq for layer in self.own]),
            "r": self.r[:, 0],
            "best_model": [self.others[0].name] * sum(n),
            "best_layer": layer[:, 0],
            "best_feature": self.feature[:, 0],
            "runner_up_r": self.r[:, 1],
            "runner_up_layer": layer[:, 1],
            "runner_up_feature": self.feature[:, 1],
            **self._calibrated(n_active, fdr),
            "mutual": is_mutual,
            **self._partners(partner),
        }
        return pl.DataFrame(columns).cast(MATCHES_SCHEMA)  # type: ignore[arg-type]

    def _calibrated(self, n_active: np.ndarray, fdr: float) -> dict[str, np.ndarray]:
        names = ("null_r", "threshold", "p", "q", "excess")
        if not self.null.shape[1]:
            return {name: np.full(len(self.r), np.nan) for name in names}
        found = calibrate(self.r[:, 0], n_active, self.null, n_tokens=self.own[0].n_tokens, fdr=fdr)
        return {name: getattr(found, name) for name in names}

    def _partners(self, found: tuple[np.ndarray, np.ndarray] | None) -> dict[str, np.ndarray]:
        """One-to-one partners, (number through all layers of the other side, r); none without a
        null.
        """
        n = len(self.r)
        number, r = (np.full(n, -1), np.full(n, np.nan)) if found is None else found
        start = np.concatenate([[0], np.cumsum([layer.n_features for layer in self.others])])
        place = np.searchsorted(start, number, side="right") - 1
        layer = np.array([other.layer for other in self.others])[np.maximum(place, 0)]
        return {
            "partner_r": r,
            "partner_layer": np.where(number >= 0, layer, -1),
            "partner_feature": np.where(number >= 0, number - start[np.maximum(place, 0)], -1),
        }

    def layers(self, comparison: str) -> pl.DataFrame:
        rows = []
        for layer, found in zip(self.own, self.pairs, strict=True):
            for other, pair in zip(self.others, found, strict=True):
                r = pair.a_to_b.r[:, 0].astype(np.float64)
                r = r[~np.isnan(r)]
                quantiles = (
                    np.quantile(r, [0.1, 0.25, 0.5, 0.75, 0.9]) if len(r) else np.full(5, np.nan)
                )
                head = (comparison, layer.kind, layer.name, layer.layer, other.name, other.layer)
                mean = float(r.mean()) if len(r) else np.nan
                rows.append((*head, layer.n_features, len(r), mean, *(float(q) for q in quantiles)))
        return pl.DataFrame(rows, schema=LAYERS_SCHEMA, orient="row")  # type: ignore[arg-type]
