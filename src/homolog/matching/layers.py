"""All layer pairs of two models: best partner, runner-up and the layer table, both directions.

For feature i of layer l of model A

    MPPC(i) = max over layers m of B, features j of m, of Pearson(f_i, f_j)

signed, over tokens [Wang 2025].  `tables_of` merges finished pairs of layers, wherever they were
worked out (`pairs.match_pair`).  It reads of a layer only its names and statistics, never its
activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import polars as pl
from jaxtyping import Float32

from homolog.errors import InputError
from homolog.features import Activations, StoredFeatures, check_same_stream
from homolog.matching.assignment import Assignment, mutual, one_to_one
from homolog.matching.null import Calibration, calibrate
from homolog.matching.pairs import PairMatch
from homolog.matching.pearson import Partners
from homolog.matching.tables import LAYERS, MATCHES, QUANTILES

CANDIDATES = 8  # best partners over all layers from which one-to-one partners are chosen


Layer = Activations | StoredFeatures  # a layer's features, in memory or on disk


@dataclass(frozen=True)
class LayerFacts:
    """What the tables say of the features of a layer: kind, model, label, and n_active.

    n_active: int64 (features,), tokens on which each is active, of n_tokens.
    """

    kind: str
    model: str
    label: str
    layer: int
    n_tokens: int
    n_active: np.ndarray

    @classmethod
    def of(cls, layer: Layer | LayerFacts) -> LayerFacts:
        if isinstance(layer, LayerFacts):
            return layer
        n_active = layer.statistics.n_active
        return cls(layer.kind, layer.model, layer.label, layer.layer, layer.n_tokens, n_active)

    @property
    def n_features(self) -> int:
        return len(self.n_active)


@dataclass(frozen=True)
class ModelMatches:
    """Tables of one comparison, both directions: rows of `MATCHES` and of `LAYERS`.

    null: of the maximum, float32 (rows of matches, exchanges), NaN where undefined.
    """

    matches: pl.DataFrame
    layers: pl.DataFrame
    null: Float32[np.ndarray, "rows exchanges"]


def tables_of(
    layers_a: Sequence[Layer | LayerFacts],
    layers_b: Sequence[Layer | LayerFacts],
    pairs: Sequence[Sequence[PairMatch]],
    *,
    comparison: str,
    fdr: float = 0.01,
) -> ModelMatches:
    """Both tables from the finished pairs: pairs[i][j] is of layers_a[i] and layers_b[j].

    All layers come from one stream of tokens.  fdr: see `calibrate`.
    """
    facts_a, facts_b = ([LayerFacts.of(layer) for layer in side] for side in (layers_a, layers_b))
    turned = [[row[j].reversed for row in pairs] for j in range(len(facts_b))]
    a, b = _Direction.of(facts_a, facts_b, pairs), _Direction.of(facts_b, facts_a, turned)
    ahead = one_to_one(*a.candidates, *b.candidates) if a.null.shape[1] else None
    back = None if ahead is None else ahead.reversed
    matches = [
        a.matches(comparison, fdr, mutual(a.best, b.best), ahead),
        b.matches(comparison, fdr, mutual(b.best, a.best), back),
    ]
    layers = [side.layers(comparison) for side in (a, b)]
    null = np.concatenate([a.null, b.null])
    return ModelMatches(pl.concat(matches), pl.concat(layers), null)


def with_threshold(
    matches: pl.DataFrame, null: Float32[np.ndarray, "rows exchanges"], *, n_tokens: int, fdr: float
) -> pl.DataFrame:
    """`matches` of one comparison with the threshold of another false discovery rate.

    null: of `tables_of`, which made the matches; p, q and the rest do not depend on `fdr`.
    """
    if not null.shape[1]:
        return matches
    parts, at = [], 0
    for _, rows in matches.group_by("model", "label", "best_model", maintain_order=True):
        r, n_active = (rows[name].to_numpy() for name in ("r", "n_active"))
        made = calibrate(r, n_active, null[at : at + len(rows)], n_tokens=n_tokens, fdr=fdr)
        parts.append(rows.with_columns(threshold=made.threshold).rechunk())
        at += len(rows)
    return pl.concat(parts)


def check_layers(features_a: Sequence[Layer], features_b: Sequence[Layer]) -> None:
    """Raise InputError unless these are the layers of two models, of one kind, on one stream."""
    if not features_a or not features_b:
        both = len(features_a), len(features_b)
        raise InputError("layers of the two models", both, "both need at least one", "Encode one.")
    check_same_stream([*features_a, *features_b])
    kinds = {features.kind for features in (*features_a, *features_b)}
    if len(kinds) > 1:
        remedy = "Compare features with features."
        raise InputError("kinds of features", sorted(kinds), "a comparison has one kind", remedy)
    names = [{features.name for features in side} for side in (features_a, features_b)]
    if len(names[0]) > 1 or len(names[1]) > 1 or names[0] == names[1]:
        sides = [sorted(side) for side in names]
        requirement = "each side is one model with one label, and the two differ"
        remedy = "Give the second dictionary of the same model its own label, such as 'seed1'."
        raise InputError("models of the two sides", sides, requirement, remedy)


def merge_layers(sides: Sequence[Partners], k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k best over several layers: r float32, number of the layer, feature; all (features, k).

    NaN and -1 where undefined.  Ties go to the first layer, then to the lowest feature.
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
    """The features of one side, one layer after the other, and what they find in the other side.

    r, feature: (features, CANDIDATES), `place` that of the partner's layer in `others`; NaN and -1
    where undefined.  null: (features, exchanges).
    """

    own: Sequence[LayerFacts]
    others: Sequence[LayerFacts]
    pairs: Sequence[Sequence[PairMatch]]
    r: np.ndarray
    place: np.ndarray
    feature: np.ndarray
    null: np.ndarray

    @classmethod
    def of(
        cls,
        own: Sequence[LayerFacts],
        others: Sequence[LayerFacts],
        pairs: Sequence[Sequence[PairMatch]],
    ) -> _Direction:
        merged = [merge_layers([pair.a_to_b for pair in row], CANDIDATES) for row in pairs]
        r, place, feature = (np.concatenate([part[i] for part in merged]) for i in range(3))
        null = np.concatenate([np.fmax.reduce([pair.null_a for pair in row]) for row in pairs])
        return cls(own, others, pairs, r, place, feature, null)

    @property
    def start(self) -> np.ndarray:
        """Number of the first feature of each of the other layers, when all are counted through."""
        return np.concatenate([[0], np.cumsum([layer.n_features for layer in self.others])])

    @property
    def candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """Features of the other side, counted through all its layers, -1 for none; and their r."""
        return np.where(self.feature >= 0, self.start[self.place] + self.feature, -1), self.r

    @property
    def best(self) -> np.ndarray:
        """The first of the candidates."""
        return self.candidates[0][:, 0]

    def _layer_at(self, place: np.ndarray) -> np.ndarray:
        """Layers of the other side by their places; -1 where the place is."""
        return np.where(place >= 0, np.array([layer.layer for layer in self.others])[place], -1)

    def matches(
        self, comparison: str, fdr: float, is_mutual: np.ndarray, partners: Assignment | None
    ) -> pl.DataFrame:
        """The rows of `MATCHES`; without partners and calibration where there is no null."""
        own, n = self.own[0], [layer.n_features for layer in self.own]
        n_active = np.concatenate([layer.n_active for layer in self.own])
        layer = self._layer_at(self.place)
        columns = {
            "comparison": [comparison] * sum(n),
            "kind": [own.kind] * sum(n),
            "model": [own.model] * sum(n),
            "label": [own.label] * sum(n),
            "layer": np.repeat([layer.layer for layer in self.own], n),
            "feature": np.concatenate([np.arange(width) for width in n]),
            "n_active": n_active,
            "freq": n_active / max(1, own.n_tokens),
            "r": self.r[:, 0],
            "best_model": [self.others[0].model] * sum(n),
            "best_label": [self.others[0].label] * sum(n),
            "best_layer": layer[:, 0],
            "best_feature": self.feature[:, 0],
            "runner_up_r": self.r[:, 1],
            "runner_up_layer": layer[:, 1],
            "runner_up_feature": self.feature[:, 1],
            **self._calibrated(n_active, fdr),
            "mutual": is_mutual,
            **self._partners(partners),
        }
        return pl.DataFrame(columns).select(list(MATCHES)).cast(MATCHES)  # type: ignore[arg-type]

    def _calibrated(self, n_active: np.ndarray, fdr: float) -> dict[str, np.ndarray]:
        if not self.null.shape[1]:
            return {field.name: np.full(len(self.r), np.nan) for field in fields(Calibration)}
        n_tokens = self.own[0].n_tokens
        return vars(calibrate(self.r[:, 0], n_active, self.null, n_tokens=n_tokens, fdr=fdr))

    def _partners(self, partners: Assignment | None) -> dict[str, np.ndarray]:
        """One-to-one partners."""
        n = len(self.r)
        if partners is None:
            number, r = np.full(n, -1), np.full(n, np.nan)
        else:
            number, r = partners.a, partners.r_a
        place = np.where(number >= 0, np.searchsorted(self.start, number, side="right") - 1, -1)
        return {
            "partner_r": r,
            "partner_layer": self._layer_at(place),
            "partner_feature": np.where(number >= 0, number - self.start[place], -1),
        }

    def layers(self, comparison: str) -> pl.DataFrame:
        """The rows of `LAYERS`."""
        rows = []
        for layer, pairs in zip(self.own, self.pairs, strict=True):
            for other, pair in zip(self.others, pairs, strict=True):
                r = pair.a_to_b.r[:, 0].astype(np.float64)
                r = r[~np.isnan(r)]
                numbers = [np.nan] * (1 + len(QUANTILES))
                if len(r):
                    numbers = [r.mean(), *np.quantile(r, list(QUANTILES.values()))]
                own, partner = ((x.model, x.label, x.layer) for x in (layer, other))
                head = (comparison, layer.kind, *own, *partner)
                rows.append((*head, layer.n_features, len(r), *map(float, numbers)))
        return pl.DataFrame(rows, schema=LAYERS, orient="row")
