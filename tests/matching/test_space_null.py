"""The null of similarities of spaces: planted truths, exact p-values, and slow definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from tests.matching.test_spaces import cka_by_kernels, svcca_by_angles

from homolog.errors import InputError
from homolog.matching import space_null
from homolog.matching.diagonal import diagonal_of, diagonal_test
from homolog.matching.space_null import (
    MEASURES,
    SpaceTest,
    document_rows,
    neighbours,
    space_tests,
)


def spaces(
    generator: np.random.Generator, widths: list[int], shared: float = 0.0, documents: int = 10
) -> list[torch.Tensor]:
    """Residuals (documents, 5 rows, width), where rows of a document have most in common.

    shared: weight of causes drawn from a seed of their own, the same for every call.
    """
    common = np.random.default_rng(99).standard_normal((documents, 5, 3))
    made = []
    for width in widths:
        own = 2 * generator.standard_normal((documents, 1, width))
        own = own + generator.standard_normal((documents, 5, width))
        made.append(torch.from_numpy(own + shared * common @ generator.standard_normal((3, width))))
    return made


def test_values_are_those_of_the_definitions_and_so_is_the_null(monkeypatch):
    monkeypatch.setattr(space_null, "NEIGHBOURS", 4)
    generator = np.random.default_rng(0)
    a, b = spaces(generator, [6, 4], 1.0), spaces(generator, [5], 1.0)
    found = space_tests(a, b, n_permutations=3, seed=7)
    # the null once more, one document and one row after the other
    drawn = np.random.default_rng(7)
    orders = [np.arange(10), *(drawn.permutation(10) for _ in range(3))]
    slow = {name: np.empty((4, 2)) for name in MEASURES}
    for s, order in enumerate(orders):
        y = b[0][order].numpy()
        for i, x in enumerate(a):
            flat_x, flat_y = x.numpy().reshape(50, -1), y.reshape(50, -1)
            slow["cka"][s, i] = cka_by_kernels(flat_x, flat_y)
            slow["svcca"][s, i] = svcca_by_angles(flat_x, flat_y)[0]
            slow["mutual_knn"][s, i] = shared_neighbours(flat_x, flat_y, 5, 4)
    for name, values in slow.items():
        test = found[name]
        np.testing.assert_allclose(test.value[:, 0], values[0], atol=1e-5)
        np.testing.assert_allclose(test.null_mean[:, 0], values[1:].mean(0), atol=1e-5)
        excess = (values[0] - values[1:].mean(0)) / (1 - values[1:].mean(0))
        np.testing.assert_allclose(test.excess[:, 0], excess, atol=1e-4)


def shared_neighbours(x: np.ndarray, y: np.ndarray, n_each: int, k: int) -> float:
    """Mutual k-NN, row by row."""
    shares = []
    for t in range(len(x)):
        nearest = []
        for z in (x - x.mean(0), y - y.mean(0)):
            cosine = z @ z[t] / np.linalg.norm(z, axis=1) / np.linalg.norm(z[t])
            ranked = sorted(range(len(z)), key=lambda u, c=cosine: -c[u])
            nearest.append([u for u in ranked if u // n_each != t // n_each][:k])
        shares.append(len(set(nearest[0]) & set(nearest[1])) / k)
    return float(np.mean(shares))


def test_p_by_hand():
    # One pair of layers has 3 and the other 10; of three permutations two reach the 3 and none the
    # 10.  Of (3, 1, 3, 5) and (10, 2, 4, 0) mean and sd are 3, 1.41 and 4, 3.74: t is 0 and 1.60,
    # and the highest t of the permutations -0.53, 0, 1.41.
    value = np.array([[3.0, 10.0]])
    null = np.array([[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 0.0]]])
    found = SpaceTest.of(value, null)
    np.testing.assert_allclose(found.p, [[3 / 4, 1 / 4]])
    np.testing.assert_allclose(found.p_max, [[3 / 4, 1 / 4]])
    np.testing.assert_allclose(found.null_mean, [[3, 2]])
    half = SpaceTest.of(value / 20, null / 20)
    np.testing.assert_allclose(half.excess, [[0, (0.5 - 0.1) / (1 - 0.1)]], atol=1e-12)


def test_unrelated_spaces_have_uniform_p_values_though_rows_of_a_document_are_alike():
    firsts: dict[str, list[float]] = {name: [] for name in MEASURES}
    lowest: dict[str, list[float]] = {name: [] for name in MEASURES}
    for seed in range(150):
        generator = np.random.default_rng(seed)
        a, b = spaces(generator, [6, 5]), spaces(generator, [4, 6, 5])
        for name, test in space_tests(a, b, n_permutations=39, seed=seed).items():
            firsts[name].append(test.p[0, 0])
            lowest[name].append(test.p_max.min())  # of the six pairs, the one picked
    for name in MEASURES:
        for p in (firsts[name], lowest[name]):
            called = sum(value <= 0.1 for value in p)
            # exact tests call 4 of 40 orders: a binomial of 150 draws, and 1 in 1,000 beyond it
            assert called <= scipy.stats.binom.ppf(0.999, 150, 0.1)
        # p is at least uniform on 1/40 ... 40/40, and for numbers without ties just that
        assert scipy.stats.kstest(np.array(lowest[name]) - 1 / 80, "uniform").pvalue > 1e-3
        assert np.mean(firsts[name]) == pytest.approx(0.5125, abs=0.1)


def test_related_spaces_are_found_and_their_excess_is_that_of_the_cause():
    generator = np.random.default_rng(1)
    a = spaces(generator, [8, 8], 0.0, 30) + spaces(generator, [8], 3.0, 30)
    b = spaces(generator, [6], 3.0, 30) + spaces(generator, [6], 0.0, 30)
    found = space_tests(a, b, n_permutations=99, seed=3)
    for name in MEASURES:
        test = found[name]
        assert test.p_max[2, 0] == test.p[2, 0] == 0.01  # none of 99
        assert test.excess[2, 0] > 0.1
        others = np.delete(test.p_max.ravel(), 4)
        assert (others > 0.05).all() and np.abs(np.delete(test.excess.ravel(), 4)).max() < 0.1


def test_the_same_space_turned_has_an_excess_of_one():
    generator = np.random.default_rng(2)
    a = spaces(generator, [6], 1.0)
    turn = torch.from_numpy(np.linalg.qr(generator.standard_normal((6, 6)))[0])
    for test in space_tests(a, [4 * a[0] @ turn + 7], n_permutations=19, seed=0).values():
        assert test.value[0, 0] == pytest.approx(1, abs=1e-5)
        assert test.excess[0, 0] == pytest.approx(1, abs=1e-4) and test.p[0, 0] == 0.05


def test_a_constant_layer_is_undefined_and_leaves_the_others_as_they_are():
    generator = np.random.default_rng(4)
    a, b = spaces(generator, [6, 5], 1.0), spaces(generator, [4], 1.0)
    alone = space_tests(a, b, n_permutations=9, seed=0)
    found = space_tests([*a, torch.ones(10, 5, 3)], b, n_permutations=9, seed=0)
    for name in MEASURES:
        assert np.isnan(
            [found[name].value[2, 0], found[name].p[2, 0], found[name].p_max[2, 0]]
        ).all()
        np.testing.assert_array_equal(found[name].p_max[:2], alone[name].p_max)


def test_more_layers_than_a_byte_has_bits():
    generator = np.random.default_rng(5)
    a, b = spaces(generator, [4] * 10, 1.0), spaces(generator, [5], 1.0)
    whole = space_tests(a, b, n_permutations=5, seed=0)["mutual_knn"]
    last = space_tests(a[9:], b, n_permutations=5, seed=0)["mutual_knn"]
    np.testing.assert_array_equal(whole.value[9:], last.value)
    np.testing.assert_array_equal(whole.null_mean[9:], last.null_mean)


def test_nothing_depends_on_the_number_of_threads():
    generator = np.random.default_rng(6)
    a, b = spaces(generator, [40, 30], 1.0, 40), spaces(generator, [50], 1.0, 40)
    one, three = (
        space_tests(a, b, n_permutations=9, seed=0, threads=threads) for threads in (1, 3)
    )
    for name in MEASURES:
        np.testing.assert_array_equal(one[name].value, three[name].value)
        np.testing.assert_array_equal(one[name].null_mean, three[name].null_mean)


def test_neighbours_are_of_other_documents():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    near = neighbours(x, 6)
    assert near.shape == (60, 10)
    assert (near // 6 != np.arange(60)[:, None] // 6).all()
    assert neighbours(x[:12], 6).shape == (12, 6)  # one other document has no more


def test_rows_are_the_same_places_of_all_documents_but_the_shortest():
    # documents of 9, 3, 6, 6 and 4 tokens, in two pieces each: the quarter of the shortest is the
    # first of five, whose next, 4, is what all have: of 8 rows two each, at the places 0 and 2
    document = np.array([0] * 5 + [2] * 2 + [1] * 3 + [3] * 6 + [0] * 4 + [2] * 4 + [4] * 4)
    rows = document_rows(document, 8)
    np.testing.assert_array_equal(rows, [[0, 2], [5, 20], [10, 12], [24, 26]])
    assert document_rows(document, 100).shape == (4, 4)  # all that the shortest has
    assert document_rows(np.zeros(0, np.int64)).size == 0


def test_errors_say_what_is_needed():
    a = spaces(np.random.default_rng(0), [3], documents=5)
    with pytest.raises(InputError, match="all need the same rows of at least 6 documents"):
        space_tests(a, a, n_permutations=9, seed=0)
    b = spaces(np.random.default_rng(0), [3], documents=8)
    with pytest.raises(InputError, match="n_permutations is 0, but a null needs one permutation"):
        space_tests(b, b, n_permutations=0, seed=0)


def test_the_diagonal_by_hand_over_all_orders():
    # Three layers each, 1 on the diagonal: of the 3! orders one gives 1 again, three give 1/3 and
    # two 0; rows and columns have equal means, so that p is the share of the identity, 1/6.
    third = np.arange(1, 4) / 3
    found = diagonal_test(np.eye(3), third, third, seed=0, draws=60_000)
    assert (found.on, found.off) == (1, 0)
    assert found.p == pytest.approx(1 / 6, abs=0.01)
    shifted = np.roll(np.eye(3), 1, axis=0)
    assert diagonal_test(shifted, third, third, seed=0).p == 1


def test_a_layer_that_is_alike_to_all_is_no_diagonal():
    depth_a, depth_b = np.arange(1, 7) / 6, np.arange(1, 13) / 12
    values = np.zeros((6, 12)) + np.linspace(0, 1, 6)[:, None] + np.linspace(0, 3, 12)
    assert np.isnan(diagonal_test(values, depth_a, depth_b, seed=0).p) or (
        diagonal_test(values, depth_a, depth_b, seed=0).p > 0.5
    )
    near = -np.abs(np.subtract.outer(depth_a, depth_b))
    found = diagonal_test(values + near, depth_a, depth_b, seed=0)
    assert found.p < 0.01 and np.isfinite([found.on, found.off]).all()
    unknown = values + near
    unknown[2] = np.nan
    assert diagonal_test(unknown, depth_a, depth_b, seed=0).p < 0.01
    assert np.isnan(diagonal_test(values[:1], depth_a[:1], depth_b, seed=0).p)


def test_unrelated_layers_have_uniform_p_values_of_the_diagonal():
    depth = np.arange(1, 6) / 5
    found = [
        diagonal_test(
            np.random.default_rng(seed).random((5, 5)), depth, depth, seed=seed, draws=199
        ).p
        for seed in range(300)
    ]
    assert scipy.stats.kstest(np.array(found) - 1 / 400, "uniform").pvalue > 1e-3


def test_each_layer_of_the_deeper_model_has_its_nearest():
    where = diagonal_of(np.arange(1, 3) / 2, np.arange(1, 5) / 4)
    expected = {(0, 0), (0, 1), (0, 2), (1, 2), (1, 3)}  # three quarters lie between both
    assert (
        set(itertools.product(range(2), range(4)))
        & {(i, j) for i, j in zip(*np.nonzero(where), strict=True)}
        == expected
    )
    np.testing.assert_array_equal(diagonal_of(np.arange(1, 5) / 4, np.arange(1, 3) / 2), where.T)
