"""One partner each: mutual best partners, and the one-to-one assignment of largest total correlation.

MPPC gives one feature of B to many features of A.  Mutual best partners are a strict count of pairs; the assignment
gives each feature at most one partner so that the sum over pairs is largest:

    max sum_ij w_ij x_ij,   sum_j x_ij <= 1,   sum_i x_ij <= 1,   x_ij in {0, 1}        w_ij = r_ij > 0

over candidate edges ij, the best partners of each feature of either side; features may stay alone.  Its dual,

    min sum_i u_i + sum_j v_j,   u_i + v_j >= w_ij,   u, v >= 0,

bounds the optimum from above.  `one_to_one` adds the features of A one after the other, each by the shortest
augmenting path in reduced costs u_i + v_j - w_ij >= 0 [Kuhn 1955; Jonker & Volgenant 1987], found by Dijkstra's
algorithm on the sparse graph [Dijkstra 1959; Karp 1980].  The path ends at a free feature of B, or where leaving a
feature of A alone costs less.  u and v stay feasible throughout and, when all are added, sum to the total: the
assignment is then exact, and certified.  Weights are integers, r 2^40, so no rounding enters (r >= 2^-17 is exact).

Paths are short in graphs of features, but no bound near linear holds for all graphs.  After `max_steps` edges the
features not yet added take the best partner still free, and `gap` says how far the total can be from the optimum.

Sources: Kuhn, Nav. Res. Log. Q. 2 (1955); Dijkstra, Numer. Math. 1 (1959); Karp, Networks 10 (1980); Jonker &
Volgenant, Computing 38 (1987).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from homolog.errors import InputError
from homolog.matching.kernels import jit

MAX_STEPS = 2_000_000_000  # edges looked at, about a minute
_UNIT = 2.0**40
_FAR = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Assignment:
    """Partners of the features of A and of B, numbered through all layers.

    a, b: int64 (features_a,), (features_b,), the partner in the other model, -1 for none.  r_a, r_b: float32, its
    correlation, NaN for none.  total: sum of r over the pairs.  bound: no assignment of these edges has a larger sum.
    """

    a: Int[np.ndarray, "features_a"]
    b: Int[np.ndarray, "features_b"]
    r_a: Float[np.ndarray, "features_a"]
    r_b: Float[np.ndarray, "features_b"]
    total: float
    bound: float

    @property
    def gap(self) -> float:
        """Share of the bound that the total falls short of; 0 is exact."""
        return 1 - self.total / self.bound if self.bound > 0 else 0.0


def mutual(best_own: Int[np.ndarray, "features"], best_other: Int[np.ndarray, "others"]) -> np.ndarray:
    """Is a feature the best partner of its best partner?  bool (features,).

    best_own: for each feature the number of its best partner, through all layers of the other model, -1 for none;
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
    max_steps: int = MAX_STEPS,
) -> Assignment:
    """The one-to-one assignment of largest total r among candidate edges; the same for the same input.

    candidates_a: for each feature of A some of its best partners, numbered through all layers of B, -1 for none;
    r_a: their correlations, NaN for none; candidates_b, r_b: likewise for B.  Edges of both sides count, where r > 0.
    Raises InputError for candidates that are no features of the other side, and for unlike shapes.
    """
    n_a, n_b = len(candidates_a), len(candidates_b)
    if n_a > n_b:  # paths are shorter from the side with fewer features, few of which stay alone
        turned = one_to_one(candidates_b, r_b, candidates_a, r_a, max_steps=max_steps)
        return Assignment(turned.b, turned.a, turned.r_b, turned.r_a, turned.total, turned.bound)
    start, column, weight = _edges(candidates_a, r_a, candidates_b, r_b)
    partner, u, v = _assign(start, column, weight, n_b, max_steps)
    bound = (int(u.sum()) + int(v.sum())) / _UNIT
    paired = np.flatnonzero(partner >= 0)
    back = np.full(n_b, -1, dtype=np.int64)
    back[column[partner[paired]]] = paired
    chosen = weight[partner[paired]]
    own_r, other_r = np.full(n_a, np.nan, dtype=np.float32), np.full(n_b, np.nan, dtype=np.float32)
    own_r[paired] = other_r[column[partner[paired]]] = chosen / _UNIT
    found = np.full(n_a, -1, dtype=np.int64)
    found[paired] = column[partner[paired]]
    return Assignment(found, back, own_r, other_r, int(chosen.sum()) / _UNIT, bound)


def _edges(
    candidates_a: np.ndarray, r_a: np.ndarray, candidates_b: np.ndarray, r_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges of both sides, each once, by feature of A: (start (features_a + 1,), feature of B, weight), int64."""
    n_a, n_b = len(candidates_a), len(candidates_b)
    keys, weights = [], []
    for side, candidates, r, n_others in (("a", candidates_a, r_a, n_b), ("b", candidates_b, r_b, n_a)):
        if candidates.shape != r.shape or candidates.max(initial=-1) >= n_others:
            raise InputError(
                f"candidates_{side}",
                candidates.shape,
                f"one r each is needed, and numbers below {n_others}, the features of the other side",
                "Number partners through all layers of the other model.",
            )
        own = np.broadcast_to(np.arange(len(candidates))[:, None], candidates.shape)
        counts = (candidates >= 0) & (r > 0)
        ends = (own[counts], candidates[counts]) if side == "a" else (candidates[counts], own[counts])
        keys.append(ends[0].astype(np.int64) * n_b + ends[1])
        weights.append(np.rint(r[counts].astype(np.float64) * _UNIT).astype(np.int64))
    key, weight = np.concatenate(keys), np.concatenate(weights)
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    key = key[order][first]
    weight = np.maximum.reduceat(weight[order], first) if len(first) else weight
    start = np.searchsorted(key, np.arange(n_a + 1, dtype=np.int64) * n_b)
    return start.astype(np.int64), key % max(n_b, 1), weight


@jit()
def _assign(start, column, weight, n_columns, max_steps):
    """(edge of each row's partner or -1, u, v): see the module's opening; rows are A, columns are B.

    Long because a search shares its arrays with the next: what one search touched is put back, nothing else.
    """
    n_rows = len(start) - 1
    u, v = np.zeros(n_rows, dtype=np.int64), np.zeros(n_columns, dtype=np.int64)
    edge_of, row_of = np.full(n_rows, -1, dtype=np.int64), np.full(n_columns, -1, dtype=np.int64)
    distance, reached_from = np.full(n_rows, _FAR, dtype=np.int64), np.empty(n_rows, dtype=np.int64)
    new_edge = np.empty(n_rows, dtype=np.int64)  # by which the search left `reached_from` for this row's column
    touched, scanned = np.empty(n_rows, dtype=np.int64), np.empty(n_rows, dtype=np.int64)
    heap = [(np.int64(0), np.int64(0))]
    steps = 0
    for root in range(n_rows):
        for edge in range(start[root], start[root + 1]):
            u[root] = max(u[root], weight[edge] - v[column[edge]])
        if steps > max_steps:  # take what is free; u keeps the bound
            for edge in range(start[root], start[root + 1]):
                better = edge_of[root] < 0 or weight[edge] > weight[edge_of[root]]
                if row_of[column[edge]] < 0 and better:
                    edge_of[root] = edge
            if edge_of[root] >= 0:
                row_of[column[edge_of[root]]] = root
            continue
        least, last_row, last_edge = u[root], root, -1  # the cheapest end of a path so far: leave the root alone
        distance[root] = 0
        touched[0], n_touched, n_scanned = root, 1, 0
        heap.clear()
        heapq.heappush(heap, (np.int64(0), np.int64(root)))
        while len(heap) > 0:
            here, row = heapq.heappop(heap)
            if here >= least:
                break
            if here > distance[row]:
                continue
            scanned[n_scanned] = row
            n_scanned += 1
            if here + u[row] < least:
                least, last_row, last_edge = here + u[row], row, -1
            steps += start[row + 1] - start[row]
            for edge in range(start[row], start[row + 1]):
                there = here + u[row] + v[column[edge]] - weight[edge]
                if there >= least:
                    continue
                other = row_of[column[edge]]
                if other < 0:
                    least, last_row, last_edge = there, row, edge
                elif there < distance[other]:
                    if distance[other] == _FAR:
                        touched[n_touched] = other
                        n_touched += 1
                    distance[other], reached_from[other], new_edge[other] = there, row, edge
                    heapq.heappush(heap, (there, other))
        for place in range(n_scanned):
            row = scanned[place]
            u[row] -= least - distance[row]
            if row != root:
                v[column[edge_of[row]]] += least - distance[row]
        row, edge = last_row, last_edge
        while True:
            edge_of[row] = edge
            if edge >= 0:
                row_of[column[edge]] = row
            if row == root:
                break
            row, edge = reached_from[row], new_edge[row]
        for place in range(n_touched):
            distance[touched[place]] = _FAR
    # What was added late may have raised no price: u must cover every edge of the rows that took what was free.
    for row in range(n_rows):
        for edge in range(start[row], start[row + 1]):
            u[row] = max(u[row], weight[edge] - v[column[edge]])
    return edge_of, u, v
