"""Mutual partners and the one-to-one assignment, against scipy's solvers and planted pairs."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from homolog.errors import InputError
from homolog.matching import assignment
from homolog.matching.assignment import Assignment, mutual, one_to_one


def solved(r: np.ndarray, k: int | None = None, **options) -> Assignment:
    """The assignment from the k best of every row and column of r (all of them by default)."""
    candidates_a = np.argsort(-r, axis=1, kind="stable")[:, :k]
    candidates_b = np.argsort(-r.T, axis=1, kind="stable")[:, :k]
    r_a, r_b = np.take_along_axis(r, candidates_a, 1), np.take_along_axis(r.T, candidates_b, 1)
    candidates_a[np.isnan(r_a)] = candidates_b[np.isnan(r_b)] = -1
    return one_to_one(candidates_a, r_a, candidates_b, r_b, **options)


def check_pairs(found: Assignment, r: np.ndarray) -> None:
    """Each feature at most once, both sides tell the same pairs, and r is that of the pair."""
    pairs = np.flatnonzero(found.a >= 0)
    np.testing.assert_array_equal(found.b[found.a[pairs]], pairs)
    assert len(pairs) == (found.b >= 0).sum() == len(set(found.a[pairs]))
    np.testing.assert_array_equal(found.r_a[pairs], r[pairs, found.a[pairs]])
    np.testing.assert_array_equal(found.r_b[found.a[pairs]], found.r_a[pairs])
    np.testing.assert_array_equal(np.isnan(found.r_a), found.a < 0)
    np.testing.assert_array_equal(np.isnan(found.r_b), found.b < 0)
    assert found.total == pytest.approx(found.r_a[pairs].astype(float).sum(), abs=1e-9)


def correlations(generator: np.random.Generator, shape: tuple[int, int], ties: bool) -> np.ndarray:
    r = np.clip(generator.normal(0.1, 0.4, shape), -1, 1)
    r = np.round(r * 4) / 4 if ties else r
    r[generator.random(shape[0]) < 0.1] = np.nan  # constant features
    return r.astype(np.float32)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (7, 30), (30, 7), (40, 40), (60, 90)])
def test_the_optimum_of_dense_problems(shape, ties):
    generator = np.random.default_rng(sum(shape))
    for _ in range(5):
        r = correlations(generator, shape, ties)
        gain = np.where(r > 0, r, 0).astype(np.float64)
        best = gain[linear_sum_assignment(gain, maximize=True)].sum()
        exact = solved(r)
        check_pairs(exact, r)
        assert exact.total == pytest.approx(best, abs=1e-9) and exact.bound == exact.total
        for epsilon in (1e-2, 1e-6):
            near = solved(r, exact_edges=0, epsilon=epsilon)
            check_pairs(near, r)
            assert best <= near.bound + 1e-9  # a dual is never below the optimum ...
            # ... nor far above what was found
            assert near.bound - near.total <= epsilon * min(shape) + 1e-9


def test_the_optimum_over_few_candidates_of_either_side():
    generator = np.random.default_rng(3)
    r = correlations(generator, (50, 80), ties=False)
    graph = networkx.Graph()
    for i, j in zip(*np.nonzero(r > 0), strict=True):
        among_i, among_j = (r[i] > r[i, j]).sum() < 3, (r[:, j] > r[i, j]).sum() < 3
        if among_i or among_j:
            graph.add_edge(("a", i), ("b", j), weight=float(r[i, j]))
    best = sum(graph.edges[pair]["weight"] for pair in networkx.max_weight_matching(graph))
    found = solved(r, k=3)
    check_pairs(found, r)
    assert found.total == pytest.approx(best, abs=1e-9)
    assert all(graph.has_edge(("a", i), ("b", j)) for i, j in enumerate(found.a) if j >= 0)


def test_a_feature_gives_way_when_the_pair_of_pairs_is_worth_more():
    # Both want b0.  0.9 + 0.1 < 0.8 + 0.7, so a0 takes its second choice.
    r = np.array([[0.9, 0.7], [0.8, 0.1]], dtype=np.float32)
    for options in ({}, {"exact_edges": 0}):
        found = solved(r, **options)
        assert found.a.tolist() == [1, 0] and found.b.tolist() == [1, 0]
        assert found.total == pytest.approx(1.5)
    # Only b0 is positive for either: a1 stays alone rather than take a negative partner.
    found = solved(np.array([[0.9, -0.2], [0.8, np.nan]], dtype=np.float32))
    assert found.a.tolist() == [0, -1] and found.b.tolist() == [0, -1]
    assert np.isnan(found.r_a[1]) and np.isnan(found.r_b[1])


@pytest.mark.parametrize("exact_edges", [0, 10**9])
def test_planted_partners_among_many(exact_edges):
    # 2,000 of 3,000 features of A have a true partner (r 0.6 to 0.95), all have three weaker
    # candidates.
    generator = np.random.default_rng(1)
    n_a, n_b, n_true = 3000, 4000, 2000
    partner = generator.permutation(n_b)[:n_true]
    weak = generator.integers(0, n_b, (n_a, 3))
    weak_r = generator.uniform(0.01, 0.1, (n_a, 3)).astype(np.float32)
    candidates = np.concatenate(
        [np.append(partner, np.full(n_a - n_true, -1))[:, None], weak], axis=1
    )
    strong_r = np.append(
        generator.uniform(0.6, 0.95, n_true), np.full(n_a - n_true, np.nan)
    ).astype(np.float32)
    r = np.concatenate([strong_r[:, None], weak_r], axis=1)
    none = np.full((n_b, 1), -1), np.full((n_b, 1), np.nan, dtype=np.float32)
    found = one_to_one(candidates, r, *none, exact_edges=exact_edges)
    np.testing.assert_array_equal(found.a[:n_true], partner)
    np.testing.assert_array_equal(found.r_a[:n_true], strong_r[:n_true])
    assert 0.999 * found.bound < found.total <= found.bound
    turned = one_to_one(*none, candidates, r, exact_edges=exact_edges)  # from the other side
    np.testing.assert_array_equal(turned.b, found.a)
    np.testing.assert_array_equal(turned.a, found.b)
    assert (turned.total, turned.bound) == (found.total, found.bound)


def test_a_price_war_ends_and_says_how_far_it_is_from_the_optimum():
    # 30 features dispute 20 equal partners: prices rise by epsilon a bid, until epsilon has doubled
    # often enough.
    r = np.full((30, 20), 0.5, dtype=np.float32)
    start, column, weight = assignment._edges(
        np.tile(np.arange(20), (30, 1)), r, np.full((20, 0), -1), r[:20, :0]
    )
    # epsilon 2^-40 alone would take years
    edge, bound = assignment._auction(start, column, weight, 20, 1, 1000)
    assert (edge >= 0).sum() == 20
    assert 10 <= bound / 2**40 <= 10 * 1.2
    exact = solved(r)
    assert exact.total == exact.bound == 10


def test_mutual_partners():
    # a0 and b1 choose each other; a1 chooses b1 too; a2 and b0 choose each other; a3 is constant.
    best_a, best_b = np.array([1, 1, 0, -1]), np.array([2, 0, -1])
    assert mutual(best_a, best_b).tolist() == [True, False, True, False]
    assert mutual(best_b, best_a).tolist() == [True, True, False]
    r = np.random.default_rng(0).random((40, 30))
    rows, columns = r.argmax(axis=1), r.argmax(axis=0)
    expected = [bool(r[i, j] == r[:, j].max()) for i, j in enumerate(rows)]
    assert mutual(rows, columns).tolist() == expected
    assert mutual(np.array([-1, -1]), np.zeros(0, dtype=int)).tolist() == [False, False]


def test_no_edges_and_wrong_numbers():
    nothing = one_to_one(
        np.full((3, 2), -1), np.full((3, 2), np.nan), np.full((2, 1), -1), np.full((2, 1), np.nan)
    )
    assert nothing.a.tolist() == [-1] * 3 and nothing.b.tolist() == [-1] * 2
    assert (nothing.total, nothing.bound) == (0, 0)
    with pytest.raises(InputError, match="the other side has 2 features"):
        one_to_one(np.array([[2]]), np.array([[0.5]]), np.full((2, 1), -1), np.full((2, 1), np.nan))
