"""Rows of the table `by_weights`: two dictionaries by weights, with what text says of the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from homolog.analyses.flow.rows import Beside
from homolog.analyses.material import Material
from homolog.analyses.stream import column_correlations
from homolog.dictionaries import SparseAutoencoder, derive_seed, rotated
from homolog.matching import Nearest, Turn, WeightMatch, match_by_weights
from homolog.record.tables import BY_WEIGHTS

NULL_QUANTILE = 0.95
Place = tuple[str, int]
"""A layer of a model."""


@dataclass(frozen=True, eq=False)
class Matched:
    """Two layers by weights.  chance: of both directions, the cosine that one in twenty reaches."""

    a: Place
    b: Place
    match: WeightMatch
    chance: tuple[float, float]

    @property
    def reversed(self) -> Matched:
        """The same with the sides exchanged."""
        return Matched(self.b, self.a, self.match.reversed, (self.chance[1], self.chance[0]))


def matched(material: Material, a: Place, b: Place, turn: Turn | None = None) -> Matched:
    """The main dictionaries of two layers by weights; turn: as in `match_by_weights`."""
    one, two = material.sae(*a), material.sae(*b)
    seed = derive_seed(material.seed, "turned", *a, *b)
    match = match_by_weights(one, two, turn=turn)
    return Matched(a, b, match, null_cosines(one, two, turn, seed))


def null_cosines(
    a: SparseAutoencoder, b: SparseAutoencoder, turn: Turn | None, seed: int
) -> tuple[float, float]:
    """The quantile of nearest features' cosines with the directions of one side turned at random.

    Of the wider stream, where everything is compared.  NaN where no feature has a direction.
    """
    if turn is not None and a.d_model > b.d_model:
        back, forth = null_cosines(b, a, turn.back, seed)
        return forth, back
    near = match_by_weights(a, rotated(b, seed), turn=turn, k=1)
    cosines = [side.cosine[np.isfinite(side.cosine)] for side in (near.a_to_b, near.b_to_a)]
    first, second = (float(np.quantile(c, NULL_QUANTILE)) if len(c) else np.nan for c in cosines)
    return first, second


def weight_rows(found: Matched, x: csr_array, y: csr_array) -> pl.DataFrame:
    """Rows of `BY_WEIGHTS` of the features of the first layer, `agrees` null.

    x, y: activations of the two (token, features), row t of both the same token.
    """
    near, back = found.match.a_to_b, found.match.b_to_a
    best = near.index[:, 0]
    own = np.arange(len(best))
    second = _second(near)
    names = ("model", "layer", "best_model", "best_layer")
    where = zip(names, (*found.a, *found.b), strict=True)
    columns = {
        "feature": own,
        "best_feature": best,
        "distance": near.distance[:, 0],
        "cosine": near.cosine[:, 0],
        "null_cosine": np.full(len(own), found.chance[0]),
        "r": pair_correlations(x, y, best),
        "runner_up_feature": second[0],
        "runner_up_distance": second[1],
        "mutual": (best >= 0) & (np.append(back.index[:, 0], -1)[best] == own),
        "partner_feature": found.match.one_a,
        "partner_distance": found.match.distance_a,
    }
    placed = pl.DataFrame(columns).with_columns(pl.lit(value).alias(name) for name, value in where)
    return BY_WEIGHTS.frame(placed)


def with_agreement(rows: pl.DataFrame, best: pl.DataFrame) -> pl.DataFrame:
    """The rows with whether the nearest by weights is the best by r.

    best: columns feature and best_feature, of the features whose best by r is in that layer.
    """
    given = best.select(pl.col("feature").cast(pl.Int32), _best="best_feature")
    joined = rows.join(given, on="feature", how="left", maintain_order="left")
    return BY_WEIGHTS.frame(
        joined.with_columns(agrees=pl.col("_best") == pl.col("best_feature")).drop("_best")
    )


def beside(
    near: Nearest,
    best: Int[np.ndarray, " features"],
    own: SparseAutoencoder,
    other: SparseAutoencoder,
) -> Beside:
    """What weights say of features whose best by r are `best` of the other dictionary."""
    cosine = np.full(len(best), np.nan)
    known = np.flatnonzero(best >= 0)
    d, e = (sae.W_dec.detach().cpu().numpy().astype(np.float64) for sae in (own, other))
    d, e = d[known], e[best[known]]
    norms = np.linalg.norm(d, axis=1) * np.linalg.norm(e, axis=1)
    cosine[known] = np.einsum("ij,ij->i", d, e) / np.where(norms > 0, norms, np.nan)
    return Beside(cosine, near.index[:, 0])


def _second(near: Nearest) -> tuple[np.ndarray, np.ndarray]:
    """The runner-up and its distance; none where the other side has one feature."""
    if near.index.shape[1] > 1:
        return near.index[:, 1], near.distance[:, 1]
    return np.full(len(near.index), -1), np.full(len(near.index), np.nan)


def pair_correlations(
    x: csr_array, y: csr_array, partner: Int[np.ndarray, " features"]
) -> Float[np.ndarray, " features"]:
    """Pearson r of each column of x with column `partner` of y, float64; NaN where undefined."""
    r = np.full(len(partner), np.nan)
    own = np.flatnonzero(partner >= 0)
    left, right = (m.tocsc()[:, at] for m, at in ((x, own), (y, partner[own])))
    r[own] = column_correlations(left, right).clip(-1, 1)
    return r
