"""One partner each: mutual best partners, and the one-to-one assignment of largest total r.

MPPC gives one feature of B to many features of A.  Mutual best partners are a strict count of
pairs; the assignment gives each feature at most one partner so that the sum over pairs is largest:

    max sum_ij w_ij x_ij,   sum_j x_ij <= 1,   sum_i x_ij <= 1,   x_ij in {0, 1}

    w_ij = r_ij > 0

over candidate edges ij, the best partners of each feature of either side; features may stay alone.
Its dual bounds the optimum from above:

    min sum_i u_i + sum_j v_j,   u_i + v_j >= w_ij,   u, v >= 0

Up to `EXACT_EDGES` edges it is solved exactly, by shortest augmenting paths [Jonker & Volgenant
1987] in scipy. Larger graphs go to auction [Bertsekas 1988]: a feature i of A without a partner
bids for the j of largest w_ij - v_j, if that is positive, and raises the price v_j to the point
where j is worth epsilon less than i's next best choice, being alone among them; whoever held j bids
again.  Prices start at 0 and a feature of B that was bid for stays taken, so when nobody bids any
more, u_i = max(0, max_j w_ij - v_j) makes a feasible dual within epsilon a pair of the total;
`bound` is that dual's value, not taken from the theory.  epsilon doubles after every `PATIENCE`
bids, which bounds the time.

Weights are integers, r 2^40, and bids come in a fixed order: the same input gives the same
partners.

Sources: Jonker & Volgenant, Computing 38 (1987); Bertsekas, Ann. Oper. Res. 14 (1988).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from homolog.compiled import jit
from homolog.errors import InputError

EXACT_EDGES = 100_000
EPSILON = 2.0**-14
PATIENCE = 10_000_000
_UNIT = 2.0**40


@dataclass(frozen=True)
class Assignment:
    """Partners of the features of A and of B, numbered through all layers.

    a, b: int64 (features_a,), (features_b,), the partner in the other model, -1 for none.  r_a,
    r_b: float32, its correlation, NaN for none.  total: sum of r over the pairs.  bound: no
    assignment of these edges has a larger sum.
    """

    a: Int[np.ndarray, "features_a"]
    b: Int[np.ndarray, "features_b"]
    r_a: Float[np.ndarray, "features_a"]
    r_b: Float[np.ndarray, "features_b"]
    total: float
    bound: float

    @property
    def reversed(self) -> Assignment:
        """The same with the sides exchanged."""
        return Assignment(self.b, self.a, self.r_b, self.r_a, self.total, self.bound)


def mutual(
    best_own: Int[np.ndarray, "features"], best_other: Int[np.ndarray, "others"]
) -> np.ndarray:
    """Is a feature the best partner of its best partner?  bool (features,).

    best_own: for each feature the number of its best partner, through all layers of the other
    model, -1 for none;
    best_other: likewise for the features of the other model.
    """
    own = np.arange(len(best_own))
    return (best_own >= 0) & (np.append(best_other, -1)[best_own] == own)


def one_to_one(
    candidates_a: Int[np.ndarray, "features_a k_a"],
    r_a: Float[np.ndarray, "features_a k_a"],
    candidates_b: Int[np.ndarray, "features_b k_b"],
    r_b: Float[np.ndarray, "features_b k_b"],
    *,
    exact_edges: int = EXACT_EDGES,
    epsilon: float = EPSILON,
) -> Assignment:
    """The one-to-one assignment of largest total r among candidate edges.

    candidates_a: for each feature of A some of its best partners, numbered through all layers of B,
    -1 for none;
    r_a: their correlations, NaN for none; candidates_b, r_b: likewise for B.  Edges of both sides
    count, where r > 0.
    exact_edges: solved exactly up to as many; epsilon: r that a pair may fall short of the optimum
    beyond. Raises InputError for candidates that are no features of the other side.
    """
    n_a, n_b = len(candidates_a), len(candidates_b)
    if n_a > n_b:  # the side with fewer features bids: then few prices are disputed
        turned = one_to_one(
            candidates_b, r_b, candidates_a, r_a, exact_edges=exact_edges, epsilon=epsilon
        )
        return turned.reversed
    start, column, weight = _edges(candidates_a, r_a, candidates_b, r_b)
    if len(weight) <= exact_edges:
        edge = _exact(start, column, weight, n_b)
        bound = int(weight[edge[edge >= 0]].sum())
    else:
        edge, bound = _auction(start, column, weight, n_b, round(epsilon * _UNIT), PATIENCE)
    paired = np.flatnonzero(edge >= 0)
    other, chosen = column[edge[paired]], weight[edge[paired]]
    partner, partner_r = _filled(n_a, paired, other, chosen)
    back, back_r = _filled(n_b, other, paired, chosen)
    return Assignment(
        partner, back, partner_r, back_r, int(chosen.sum()) / _UNIT, int(bound) / _UNIT
    )


def _filled(
    n: int, place: np.ndarray, partner: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(partner, its r) of all n features from those that have one."""
    number, r = np.full(n, -1, dtype=np.int64), np.full(n, np.nan, dtype=np.float32)
    number[place], r[place] = partner, weight / _UNIT
    return number, r


def _edges(
    candidates_a: np.ndarray, r_a: np.ndarray, candidates_b: np.ndarray, r_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges of both sides, each once, by feature of A: start, feature of B, weight; int64.

    start: (features_a + 1,).
    """
    n_a, n_b = len(candidates_a), len(candidates_b)
    keys, weights = [], []
    for candidates, r, n_others in ((candidates_a, r_a, n_b), (candidates_b, r_b, n_a)):
        if candidates.max(initial=-1) >= n_others:
            numbered = f"{n_others} features, numbered from 0 through all its layers"
            remedy = "Add the features of the layers before the partner's."
            top = int(candidates.max())
            raise InputError("candidates", top, f"the other side has {numbered}", remedy)
        own = np.broadcast_to(np.arange(len(candidates))[:, None], candidates.shape)
        counts = (candidates >= 0) & (r > 0)
        ends = (own[counts], candidates[counts]) if not keys else (candidates[counts], own[counts])
        keys.append(ends[0].astype(np.int64) * n_b + ends[1])
        weights.append(np.rint(r[counts].astype(np.float64) * _UNIT).astype(np.int64))
    key, weight = np.concatenate(keys), np.concatenate(weights)
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    key = key[order][first]
    weight = np.maximum.reduceat(weight[order], first) if len(first) else weight
    start = np.searchsorted(key, np.arange(n_a + 1, dtype=np.int64) * n_b).astype(np.int64)
    return start, key % max(n_b, 1), weight


def _exact(start: np.ndarray, column: np.ndarray, weight: np.ndarray, n_columns: int) -> np.ndarray:
    """Edge of each row's partner, -1 for none.

    A column of its own for each row stands for being alone.
    """
    n_rows = len(start) - 1
    row = np.repeat(np.arange(n_rows), np.diff(start))
    ends = (
        np.concatenate([row, np.arange(n_rows)]),
        np.concatenate([column, n_columns + np.arange(n_rows)]),
    )
    # all positive: scipy drops zeros
    cost = np.concatenate([2 * _UNIT - weight, np.full(n_rows, 2 * _UNIT)])
    shape = (n_rows, n_columns + n_rows)
    _, met = min_weight_full_bipartite_matching(scipy.sparse.csr_array((cost, ends), shape=shape))
    edge = np.full(n_rows, -1, dtype=np.int64)
    chosen = np.flatnonzero(column == np.asarray(met)[row])
    edge[row[chosen]] = chosen
    return edge


@jit()
def _auction(start, column, weight, n_columns, epsilon, patience):
    """(edge of each row's partner or -1, bound): see the module's opening; rows are A."""
    n_rows = len(start) - 1
    price = np.zeros(n_columns, dtype=np.int64)
    edge_of, row_of = np.full(n_rows, -1, dtype=np.int64), np.full(n_columns, -1, dtype=np.int64)
    waiting = np.arange(n_rows)[::-1].copy()
    n_waiting, bids = n_rows, 0
    while n_waiting > 0:
        n_waiting -= 1
        row = waiting[n_waiting]
        best, second, chosen = 0, 0, -1  # being alone is worth 0
        for edge in range(start[row], start[row + 1]):
            value = weight[edge] - price[column[edge]]
            if value > best:
                best, second, chosen = value, best, edge
            elif value > second:
                second = value
        if chosen < 0:
            continue
        bids += 1
        if bids % patience == 0:
            epsilon *= 2
        won = column[chosen]
        price[won] += best - second + epsilon
        if row_of[won] >= 0:
            edge_of[row_of[won]] = -1
            waiting[n_waiting] = row_of[won]
            n_waiting += 1
        row_of[won], edge_of[row] = row, chosen
    bound = price.sum()
    for row in range(n_rows):
        best = 0
        for edge in range(start[row], start[row + 1]):
            best = max(best, weight[edge] - price[column[edge]])
        bound += best
    return edge_of, bound
