"""Matching without data: features of two dictionaries by their weights alone.

For feature i of A and j of B, with encoder columns e and decoder rows d after folding,

    D_ij = (|e_i - e_j|^2 + |d_i - d_j|^2) / (2 d_model)         P = argmin over P of sum_i D_i,P(i)

[Balagansky 2024, "SAE Match"].  A dictionary reads and writes the same with f_i / g_i for f_i, e_i
g_i for e_i and d_i / g_i for d_i; folding says which g is meant:

    threshold   g_i = 1 / threshold_i: every feature begins at 1, as there; the default where both
                have thresholds above 0
    direction   e_i and d_i each of length 1, so that D = (2 - cos_e - cos_d) / d_model; the other
                default: without thresholds nothing says how strongly a feature reads
    norm        g_i = |d_i|: a feature's value is the length it adds

Two models have no basis in common, and without a map their cosines are those of chance [arXiv
2605.24577]: the dictionary of the narrower stream is carried into the other's space first,

    y' = s x Q,   U S V' = X' Y centred, Q = U V' [Schoenemann 1966],   s = |Y| / |X|
    d -> s d Q,   e -> e Q / s                                          so p stays what it was

Q has orthonormal rows where d_x < d_y, and nothing of the narrower dictionary is lost; what the
wider holds in further directions stays as a distance.  s is the ratio of norms, since the scale of
least squares falls as the fit gets worse.

Over permutations, the least sum of D is the largest sum of <e_i, e_j> + <d_i, d_j>: one-to-one
partners come from `assignment`, on these as weights, among the k nearest of both sides.

Cost: 4 d_model n_a n_b operations, and for each thread a block of `BLOCK_BYTES` of distances with
the places of its order beside both dictionaries; 32,768 x 32,768 features of d_model 2,304 take
1.2 GB for the weights, as much for a moment while one is folded, 0.3 GB a thread, and 1e13
operations: some minutes on two cores.

Sources: Balagansky et al., "Mechanistic Permutability: Match Features Across Layers", ICLR 2025,
arXiv 2410.07656; arXiv 2605.24577; Schoenemann, Psychometrika 1966.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from homolog.errors import InputError
from homolog.matching.assignment import one_to_one
from homolog.threads import library_threads

if TYPE_CHECKING:
    from homolog.dictionaries import SparseAutoencoder

CANDIDATES = 8
BLOCK_BYTES = 64 << 20
ROWS = 1 << 12  # of a dictionary that are folded in float64 at once
PAIRS = 1 << 14  # whose distances are taken in float64 at once
Folding = Literal["threshold", "direction", "norm"]


@dataclass(frozen=True, eq=False)
class Turn:
    """y' = scale x weight between two residual streams, without their means.

    weight: float64 (d_x, d_y), with orthonormal rows where d_x <= d_y, else columns.
    """

    weight: Float[np.ndarray, "d_x d_y"]
    scale: float = 1.0

    @property
    def back(self) -> Turn:
        """From y to x."""
        return Turn(self.weight.T, 1 / self.scale)


@dataclass(frozen=True, eq=False)
class Nearest:
    """The k nearest features of the other side, nearest first.

    index: int64 (features, k), -1 for none.  distance: float64, D.  cosine: float64, of the two
    decoder directions.  Both NaN for none.
    """

    index: Int[np.ndarray, "features k"]
    distance: Float[np.ndarray, "features k"]
    cosine: Float[np.ndarray, "features k"]


@dataclass(frozen=True, eq=False)
class WeightMatch:
    """Features of A beside those of B by weights.

    a_to_b, b_to_a: the nearest of each.  one_a, one_b: one-to-one partners, int64, -1 for none;
    distance_a, distance_b: their D, NaN for none.  folding: what both were folded by.
    """

    a_to_b: Nearest
    b_to_a: Nearest
    one_a: Int[np.ndarray, "features_a"]
    one_b: Int[np.ndarray, "features_b"]
    distance_a: Float[np.ndarray, "features_a"]
    distance_b: Float[np.ndarray, "features_b"]
    folding: Folding

    @property
    def reversed(self) -> WeightMatch:
        """The same with the sides exchanged."""
        ones = (self.one_b, self.one_a), (self.distance_b, self.distance_a)
        return WeightMatch(self.b_to_a, self.a_to_b, *ones[0], *ones[1], self.folding)


def procrustes(x: Float[np.ndarray, "token_x d_x"], y: Float[np.ndarray, "token_y d_y"]) -> Turn:
    """The orthogonal map of x to y, of any widths, and its scale; row t of both is the same token.

    Computed in float64 on one thread.  InputError for other numbers of rows, or where one side is
    constant or not finite.
    """
    if len(x) != len(y):
        requirement = "row t of both must be the same token"
        raise InputError("rows of x and y", (len(x), len(y)), requirement, "Mask both alike.")
    x, y = (side.astype(np.float64) - side.mean(axis=0, dtype=np.float64) for side in (x, y))
    sizes = np.linalg.norm(x), np.linalg.norm(y)
    for name, size in zip("xy", sizes, strict=True):
        if not (np.isfinite(size) and size > 0):
            requirement = "a map is fitted to finite residuals that vary"
            raise InputError(
                name, f"norm {size:g} about its mean", requirement, "Give more tokens."
            )
    with library_threads(1, "blas"):  # the last bits would follow their number
        u, _, v = np.linalg.svd(x.T @ y, full_matrices=False)
        return Turn(u @ v, float(sizes[1] / sizes[0]))


def match_by_weights(
    a: SparseAutoencoder,
    b: SparseAutoencoder,
    *,
    turn: Turn | None = None,
    folding: Folding | None = None,
    k: int = CANDIDATES,
    threads: int | None = None,
) -> WeightMatch:
    """Features of `a` and of `b` whose weights are nearest.

    turn: from the residual stream of `a` to that of `b`; None: it is one stream, as of two layers
    of a model.  folding: by default `folding_of` them.  k: nearest features that are kept and may
    become one-to-one partners, at most.  threads: default all; no result depends on them.
    Features without a direction, or silent whatever they read, have no partner and are none.
    InputError for k < 1, thresholds asked for where one side has none or one of 0, and widths that
    differ from each other or from the turn's.
    """
    if k < 1:
        raise InputError("k", k, "at least one partner must be asked for", "Give 2 or more.")
    _check_widths(a.d_model, b.d_model, turn)
    if folding == "threshold" and folding_of(a, b) != folding:
        requirement = "both dictionaries need thresholds, and none of 0"
        raise InputError("folding", folding, requirement, "Leave it out, or say direction.")
    folding = folding or folding_of(a, b)
    inwards = turn is None or a.d_model <= b.d_model
    left = _folded(a, folding, turn if inwards else None)
    right = _folded(b, folding, None if inwards or turn is None else turn.back)
    ok_left, ok_right = np.isfinite(left[:, 0]), np.isfinite(right[:, 0])
    left[~ok_left], right[~ok_right] = 0, 0
    near_left, near_right = _candidates(left, right, ok_left, ok_right, k, threads)
    to_right, to_left = _nearest(left, right, near_left), _nearest(right, left, near_right)
    own = _of_pairs(left, right, to_right.index, _product)
    others = _of_pairs(right, left, to_left.index, _product)
    top = max(np.nanmax(own, initial=0.0), np.nanmax(others, initial=0.0)) or 1.0
    ones = one_to_one(to_right.index, own / top, to_left.index, others / top)
    apart_left = _nearest(left, right, ones.a[:, None]).distance[:, 0]
    apart_right = _nearest(right, left, ones.b[:, None]).distance[:, 0]
    return WeightMatch(to_right, to_left, ones.a, ones.b, apart_left, apart_right, folding)


def folding_of(a: SparseAutoencoder, b: SparseAutoencoder) -> Folding:
    """By thresholds where both have them and none is 0; else by directions."""
    given = [sae.threshold is not None and bool((sae.threshold > 0).all()) for sae in (a, b)]
    return "threshold" if all(given) else "direction"


def _check_widths(d_a: int, d_b: int, turn: Turn | None) -> None:
    if turn is None and d_a != d_b:
        requirement = "weights are compared in one space"
        raise InputError("d_model of a and b", (d_a, d_b), requirement, "Give a turn (procrustes).")
    if turn is not None and turn.weight.shape != (d_a, d_b):
        requirement = f"it leads from the stream of a to that of b, {(d_a, d_b)}"
        remedy = "Fit it on residuals of these two models, in this order."
        raise InputError("turn", turn.weight.shape, requirement, remedy)


def _folded(sae: SparseAutoencoder, folding: Folding, turn: Turn | None) -> np.ndarray:
    """Encoder beside decoder, float32 (features, 2 d_model); NaN where folding is undefined."""
    encoder, decoder = sae.W_enc.detach().cpu().numpy().T, sae.W_dec.detach().cpu().numpy()
    none = np.ones(len(encoder))  # what silences a feature is an infinite threshold
    threshold = none if sae.threshold is None else sae.threshold.detach().cpu().numpy()
    parts = []
    with library_threads(1, "blas"):
        for start in range(0, len(encoder), ROWS):
            rows = slice(start, start + ROWS)
            e, d = (side[rows].astype(np.float64) for side in (encoder, decoder))
            if turn is not None:
                e, d = e @ turn.weight / turn.scale, d @ turn.weight * turn.scale
            reads, norm = (np.linalg.norm(side, axis=1) for side in (e, d))
            defined = (norm > 0) & (reads > 0) & np.isfinite(threshold[rows])
            gain = norm if folding != "threshold" else 1 / threshold[rows].astype(np.float64)
            gain = np.where(defined, gain, np.nan)[:, None]
            length = np.where(defined, reads, np.nan)[:, None]
            e = e / length if folding == "direction" else e * gain
            parts.append(np.concatenate([e, d / gain], axis=1).astype(np.float32))
    return np.concatenate(parts)


_Found = tuple[np.ndarray, np.ndarray]
"""(distance, index) of candidates, (features, k)."""


def _candidates(
    a: np.ndarray,
    b: np.ndarray,
    known_a: Bool[np.ndarray, "features_a"],
    known_b: Bool[np.ndarray, "features_b"],
    k: int,
    threads: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of each feature of either side in float32, -1 for none, in no order."""
    size_a, size_b = (np.einsum("ij,ij->i", side, side) for side in (a, b))
    size_a, size_b = np.where(known_a, size_a, np.inf), np.where(known_b, size_b, np.inf)
    step = max(1, BLOCK_BYTES // (4 * len(b)))

    def block(start: int) -> tuple[_Found, _Found]:
        rows = slice(start, start + step)
        distance = -2 * (a[rows] @ b.T)
        distance += size_a[rows, None]
        distance += size_b
        own, others = _least(distance, k), _least(distance.T, k)
        return own, (others[0], others[1] + start)

    found_a, best_b = [], None
    for own, others in _in_order(block, range(0, len(a), step), threads):
        found_a.append(np.where(np.isfinite(own[0]), own[1], -1))
        best_b = others if best_b is None else _better(best_b, others, k)
    assert best_b is not None
    return np.concatenate(found_a), np.where(np.isfinite(best_b[0]), best_b[1], -1)


def _in_order(work, items, threads: int | None) -> Iterator[tuple[_Found, _Found]]:
    """What `work` gives of each item, in order, on threads on which BLAS has one each."""
    n = threads or os.cpu_count() or 1
    items = list(items)
    with library_threads(1, "blas"), ThreadPoolExecutor(n) as pool:
        for start in range(0, len(items), n):
            yield from pool.map(work, items[start : start + n])


def _least(distance: np.ndarray, k: int) -> _Found:
    """The k least of each row, (rows, min(k, columns))."""
    k = min(k, distance.shape[1])
    at = np.argpartition(distance, k - 1, axis=1)[:, :k]
    return np.take_along_axis(distance, at, axis=1), at


def _better(one: _Found, other: _Found, k: int) -> _Found:
    distance, index = (np.concatenate(parts, axis=1) for parts in zip(one, other, strict=True))
    least, at = _least(distance, k)
    return least, np.take_along_axis(index, at, axis=1)


def _nearest(a: np.ndarray, b: np.ndarray, index: np.ndarray) -> Nearest:
    """These candidates of each row of a, the nearest first, lowest index first; in float64."""
    distance = _of_pairs(a, b, index, lambda x, y: ((x - y) ** 2).mean(axis=1))
    half = a.shape[1] // 2
    order = np.lexsort([index, np.where(np.isnan(distance), np.inf, distance)], axis=1)
    index, distance = (np.take_along_axis(of, order, axis=1) for of in (index, distance))
    return Nearest(index, distance, _of_pairs(a[:, half:], b[:, half:], index, _cosine))


def _product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", x, y)


def _cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _product(x, y) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))


def _of_pairs(a: np.ndarray, b: np.ndarray, index: np.ndarray, of) -> np.ndarray:
    """`of` of the rows of a and those of b at `index` (rows, k), float64; NaN where that is -1."""
    own, which = np.nonzero(index >= 0)
    values = np.full(index.shape, np.nan)
    for start in range(0, len(own), PAIRS):
        i, j = own[start : start + PAIRS], which[start : start + PAIRS]
        values[i, j] = of(a[i].astype(np.float64), b[index[i, j]].astype(np.float64))
    return values
