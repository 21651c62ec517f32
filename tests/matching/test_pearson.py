"""max_pearson against exact arithmetic, numpy.corrcoef, planted truths and hostile inputs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.matching.random_features import features
from tests.reference import pearson_exact

from homolog.errors import InputError
from homolog.matching import max_pearson, prepare
from homolog.matching import pearson as engine


def assert_matches(
    a: np.ndarray, b: np.ndarray, found: engine.Best, k: int, r: np.ndarray | None = None
) -> None:
    r = pearson_exact.correlations(a, b) if r is None else r
    for side, table in ((found.a_to_b, r), (found.b_to_a, r.T)):
        values, _ = pearson_exact.best(table, k)
        np.testing.assert_allclose(side.r, values, rtol=0, atol=1e-6)
        assert side.r.dtype == np.float32 and side.index.dtype == np.int64
        assert ((side.index == -1) == np.isnan(side.r)).all()
        at_index = np.take_along_axis(table, np.maximum(side.index, 0), axis=1)
        np.testing.assert_allclose(
            side.r, np.where(side.index < 0, np.nan, at_index), rtol=0, atol=1e-6
        )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_tokens=st.integers(2, 40),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    densities=st.lists(st.sampled_from([0.0, 0.03, 0.1, 0.3, 1.0]), min_size=1, max_size=4),
    kind=st.sampled_from(["positive", "signed", "binary", "integer"]),
    k=st.integers(1, 4),
    blocks=st.sampled_from(["one", "many", "many by BLAS"]),
)
def test_equals_exact_arithmetic(seed, n_tokens, shape, densities, kind, k, blocks):
    a = features(seed, n_tokens, shape[0], densities, kind)
    b = features(seed + 1, n_tokens, shape[1], densities[::-1], kind)
    with pytest.MonkeyPatch.context() as patch:
        if blocks != "one":
            patch.setattr(engine, "DENSE_BLOCK", 2)
            patch.setattr(engine, "SPARSE_BY_DENSE", 2)
            patch.setattr(engine, "FEW_DENSE", 0 if blocks == "many by BLAS" else 128)
        assert_matches(
            a, b, max_pearson(scipy.sparse.csr_array(a), scipy.sparse.csc_array(b), k), k
        )
        assert_matches(a, b, max_pearson(a, torch.from_numpy(b), k), k)


@pytest.mark.parametrize("kind", ["positive", "signed", "binary"])
@pytest.mark.parametrize("densities", [[0.001, 0.02, 0.05], [0.001, 0.05, 0.2, 0.9], [1.0]])
def test_equals_numpy_corrcoef_on_many_tokens(kind, densities):
    a, b = (features(seed, 20_000, 40, densities, kind) for seed in (1, 2))
    b[:, :5] = a[:, :5] * 3  # duplicates: r is 1
    varies = [x.std(axis=0) > 0 for x in (a, b)]
    r = np.full((40, 40), np.nan)
    inner = np.corrcoef(a[:, varies[0]].T, b[:, varies[1]].T, dtype=np.float64)
    r[np.ix_(*varies)] = inner[: varies[0].sum(), varies[0].sum() :]
    assert_matches(a, b, max_pearson(scipy.sparse.csr_array(a), b, 3), 3, r)


def test_visible_arithmetic():
    a = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    b = np.array([[1.0, 1.0, 5.0], [1.0, 0.0, 5.0], [0.0, 0.0, 5.0], [0.0, 1.0, 5.0]])
    found = max_pearson(a, b, k=3)
    # n = 4; a0 and b0: (4*1 - 1*2) / sqrt((4-1)(4*2-4)) = 2 / sqrt(12); a1 and b0: (0 - 2) /
    # sqrt(12)
    third = 1 / np.sqrt(3)
    expected = np.array([[third, third, np.nan], [third, -third, np.nan]])
    np.testing.assert_allclose(found.a_to_b.r, expected, atol=1e-7)
    assert found.a_to_b.index.tolist() == [[0, 1, -1], [1, 0, -1]]
    assert found.b_to_a.index.tolist() == [[0, 1, -1], [0, 1, -1], [-1, -1, -1]]
    assert np.isnan(found.b_to_a.r[:, 0]).tolist() == [False, False, True]


def test_large_mean_and_tiny_spread():
    generator = np.random.default_rng(0)
    steps = generator.integers(-3, 4, (300, 6)).astype(np.float64)
    a = (1e4 + steps / 256).astype(np.float32)  # exact in float32: mean 1e4, spread 2^-7
    b = 1e9 + steps[:, ::-1] / 64 + generator.integers(0, 2, (300, 6)) / 64
    found = max_pearson(a, b, k=2)
    assert_matches(a.astype(np.float64), b, found, 2)


def test_values_of_any_magnitude():
    x = features(3, 200, 6, [0.05, 0.5], "positive").astype(np.float64)
    y = x + features(4, 200, 6, [0.05, 0.5], "positive")
    plain = max_pearson(x, y, k=2)
    for factor in (1e-300, 1e-30, 1e30, 1e300):
        scaled = max_pearson(scipy.sparse.csr_array(x * factor), y / factor, k=2)
        np.testing.assert_allclose(scaled.a_to_b.r, plain.a_to_b.r, atol=2e-7)
        assert (scaled.a_to_b.index == plain.a_to_b.index).all()


def test_all_negative_correlations_stay_negative():
    x = np.random.default_rng(0).random((500, 1))
    found = max_pearson(x, np.hstack([-x, -x - 1]))
    np.testing.assert_allclose(found.a_to_b.r, [[-1.0]], atol=1e-7)
    np.testing.assert_allclose(found.b_to_a.r, [[-1.0], [-1.0]], atol=1e-7)


def test_single_active_tokens():
    a = scipy.sparse.csr_array(([1.0, 7.0], ([3, 500], [0, 1])), shape=(1000, 3))
    b = scipy.sparse.csr_array(([2.0, 1.0], ([3, 4], [0, 1])), shape=(1000, 2))
    found = max_pearson(a, b)
    # the same token: r = 1; different tokens: (0 - 1) / (n - 1) = -1/999
    np.testing.assert_allclose(found.a_to_b.r[:, 0], [1.0, -1 / 999, np.nan], atol=1e-7)
    assert found.a_to_b.index[:, 0].tolist() == [0, 0, -1]


@pytest.mark.parametrize("few", [0, 128])
@pytest.mark.parametrize("density", [0.02, 0.5, 1.0])
def test_ties_go_to_the_lowest_index(density, few, monkeypatch):
    monkeypatch.setattr(engine, "FEW_DENSE", few)
    x = features(5, 3000, 1, [density], "positive")
    b = np.hstack([features(6, 3000, 30, [density], "positive"), np.repeat(x, 20, axis=1)])
    found = max_pearson(x, b, k=5)
    assert found.a_to_b.index.tolist() == [[30, 31, 32, 33, 34]]
    assert max_pearson(b, x, k=2).b_to_a.index.tolist() == [[30, 31]]


def test_planted_pairs_are_found_in_both_directions():
    generator = np.random.default_rng(7)
    a = features(8, 5000, 60, [0.01, 0.04, 0.3], "positive")
    order = generator.permutation(60)
    noise = features(9, 5000, 60, [0.01], "positive")
    b = 2.5 * a[:, order] + 0.3 * noise
    found = max_pearson(scipy.sparse.csr_array(a), scipy.sparse.csr_array(b))
    assert (found.b_to_a.index[:, 0] == order).all()
    assert (found.a_to_b.index[order, 0] == np.arange(60)).all()
    assert found.a_to_b.r.min() > 0.9


def test_transposed_call_and_threads_give_the_same_bytes():
    a, b = (features(seed, 4000, 70, [0.01, 0.05, 0.3], "positive") for seed in (10, 11))
    found, swapped = max_pearson(a, b, 3), max_pearson(b, a, 3)
    for other in (max_pearson(a, b, 3, threads=1), max_pearson(a, b, 3, threads=5)):
        assert other.a_to_b.r.tobytes() == found.a_to_b.r.tobytes()
        assert other.b_to_a.index.tobytes() == found.b_to_a.index.tobytes()
    np.testing.assert_array_equal(swapped.a_to_b.index, found.b_to_a.index)
    np.testing.assert_array_equal(swapped.b_to_a.r, found.a_to_b.r)


def test_memory_never_holds_all_pairs():
    n = 6000  # all pairs: 6000 x 6000 x 8 bytes = 288 MB
    a, b = (
        scipy.sparse.random_array((400, n), density=0.005, rng=seed, format="csr")
        for seed in (0, 1)
    )
    left, right = prepare(a), prepare(b)
    max_pearson(left, right)
    tracemalloc.start()
    max_pearson(left, right)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_messy_sparse_input_equals_the_clean_one():
    # (0, 1) twice, a stored zero in column 0
    a = scipy.sparse.coo_array(([1.0, 2.0, 0.0, 4.0], ([0, 0, 1, 2], [1, 1, 0, 1])), shape=(4, 2))
    clean = np.array([[0.0, 3], [0, 0], [0, 4], [0, 0]])
    b = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    found = max_pearson(a.tocsr(), b)
    assert_matches(clean, b, found, 1)
    assert np.isnan(found.a_to_b.r[0, 0])


@pytest.mark.parametrize("n_tokens", [0, 1])
def test_too_few_tokens_are_undefined(n_tokens):
    found = max_pearson(np.ones((n_tokens, 2)), scipy.sparse.csr_array((n_tokens, 3)))
    assert found.a_to_b.r.shape == (2, 1) and found.b_to_a.r.shape == (3, 1)
    assert np.isnan(found.a_to_b.r).all() and np.isnan(found.b_to_a.r).all()


def test_bad_input_is_named():
    good = np.eye(4)
    for bad in (
        np.where(good == 1, np.nan, 0),
        scipy.sparse.csr_array(np.where(good == 1, np.inf, 0)),
    ):
        with pytest.raises(InputError, match=r"b\[0, 0\].*finite"):
            max_pearson(good, bad)
    with pytest.raises(InputError, match=r"\(4, 3\).*a \(4 tokens\) and of b \(3 tokens\)"):
        max_pearson(good, good[:3])
    with pytest.raises(InputError, match="threads is 0"):
        max_pearson(good, good, threads=0)
    with pytest.raises(InputError, match="device is 'gpu'"):
        max_pearson(good, good, device="gpu")
    with pytest.raises(InputError, match="k is 0"):
        max_pearson(good, good, k=0)
    with pytest.raises(InputError, match="two axes"):
        max_pearson(good[0], good)
    with pytest.raises(InputError, match="complex128"):
        max_pearson(good * 1j, good)


def test_half_precision_tensors_are_read():
    x = torch.arange(12.0).reshape(6, 2)
    found = max_pearson(x.bfloat16(), x.half())
    np.testing.assert_allclose(found.a_to_b.r, 1, atol=1e-7)
