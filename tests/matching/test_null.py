"""The null of the maximum: pairings of tokens, p by visible counts, calibration without matches."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import scipy.stats

from homolog.errors import InputError
from homolog.matching import null
from homolog.matching.null import benjamini_hochberg, calibrate, document_exchanges


def documents(generator: np.random.Generator, n: int, mean: int, window: int = 0) -> np.ndarray:
    """Document of every token, of geometric lengths; `window`: dealt out in windows of so many."""
    document = np.repeat(np.arange(n, dtype=np.int32), generator.geometric(1 / mean, n))
    if not window:
        return document
    windows = np.array_split(document, max(1, len(document) // window))
    return np.concatenate([windows[place] for place in generator.permutation(len(windows))])


@pytest.mark.parametrize("window", [0, 32])
def test_exchanges_use_each_row_once_and_pair_documents_with_others(window):
    document = documents(np.random.default_rng(1), 90, 100, window)
    orders = document_exchanges(document, 5, seed=2)
    assert orders.dtype == np.int64 and orders.shape == (5, len(document))
    np.testing.assert_array_equal(
        np.sort(orders, axis=1), np.tile(np.arange(len(document)), (5, 1))
    )
    np.testing.assert_array_equal(orders, document_exchanges(document, 5, seed=2))
    met: list[dict[int, int]] = []
    aligned = 0.0
    for order in orders:
        partners = {}
        for one in range(90):
            rows = np.flatnonzero(document == one)
            partner = document[order[rows[0]]]
            other = np.flatnonzero(document == partner)
            common = min(len(rows), len(other))
            np.testing.assert_array_equal(order[rows[:common]], other[:common])
            aligned += common / len(document) / len(orders)
            partners[one] = int(partner)
        assert (
            all(one != partner for one, partner in partners.items())
            and len(set(partners.values())) == 90
        )
        met.append(partners)
    assert all(len({partners[one] for partners in met}) == 5 for one in range(90))
    assert aligned > 0.85  # of the tokens: documents that meet are of about one length


def test_more_documents_than_exchanges_are_needed():
    for document in (np.zeros(50, dtype=np.int32), np.array([0, 1, 1, 2])):
        with pytest.raises(InputError, match="more documents than exchanges"):
            document_exchanges(document, 3, seed=0)


def test_p_by_counting():
    # 19 null draws, 0.01 ... 0.19, in one pool: between two draws p lies between the fractions at
    # them.
    draws = np.append(np.arange(1, 20), np.nan).astype(np.float32)[:, None] / 100
    r = np.array([0.5, 0.195, 0.105, 0.005] + [0.0] * 15 + [np.nan], dtype=np.float32)
    found = calibrate(r, np.full(20, 7), draws, n_tokens=100, fdr=0.5)
    # (1 + 0) / (1 + 19): no draw is as large
    assert found.p[0] == found.p[1] == pytest.approx(1 / 20)
    # half-way between 9 and 10 draws as large
    assert found.p[2] == pytest.approx((1 + 9.5) / 20, rel=0.01)
    assert (found.p[3:19] == 1).all()
    # p <= 0.05 only above the largest
    np.testing.assert_allclose(found.null_r[:19], 0.19, atol=1e-6)
    np.testing.assert_allclose(found.excess[:4], r[:4] - 0.19, atol=1e-6)
    for values in (found.p, found.q, found.null_r, found.excess, found.threshold):
        assert np.isnan(values[19]) and not np.isnan(values[:19]).any()


def test_equal_draws_count_as_as_large():
    draws = np.array([1.0] * 5 + [0.1] * 14, dtype=np.float32)[:, None]
    r = np.array([1.0, 0.5] + [0.0] * 17, dtype=np.float32)
    found = calibrate(r, np.ones(19, dtype=int), draws, n_tokens=100, fdr=0.2)
    np.testing.assert_allclose(found.p[:2], [(1 + 5) / 20, (1 + 5) / 20], atol=0.03)
    assert found.p[0] == pytest.approx((1 + 5) / 20, rel=0.01)
    assert (found.threshold > 1).all()  # among draws of 1, even r = 1 is not called at 0.2


def test_q_equals_scipy():
    p = np.random.default_rng(0).random(500) ** 3
    np.testing.assert_allclose(
        benjamini_hochberg(p), scipy.stats.false_discovery_control(p), rtol=1e-12
    )
    assert benjamini_hochberg(np.array([0.01, 0.02, 0.9])).tolist() == pytest.approx(
        [0.03, 0.03, 0.9]
    )


def null_maxima(n_active: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Largest of many: a Gumbel variable, falling with the square root of the firing count."""
    return np.tanh(
        (4 + 0.3 * generator.gumbel(size=(len(n_active), n))) / np.sqrt(n_active + 8)[:, None]
    )


@pytest.mark.parametrize(("n_features", "n_draws"), [(3000, 8), (40_000, 3)])
def test_p_is_uniform_at_every_frequency_and_nothing_is_discovered_in_noise(n_features, n_draws):
    generator = np.random.default_rng(5)
    n_active = np.exp(generator.uniform(0, 11, n_features)).astype(np.int64)
    shares, discoveries = [], 0
    for _ in range(6):
        draws = null_maxima(n_active, n_draws + 1, generator).astype(np.float32)
        found = calibrate(draws[:, 0], n_active, draws[:, 1:], n_tokens=100_000)
        for low, high in ((1, 3), (3, 30), (30, 1000), (1000, 60_000)):
            p = found.p[(n_active >= low) & (n_active < high)]
            shares.append([(p <= level).mean() / level for level in (0.5, 0.2, 0.05)])
        assert (found.p <= 1e-3).mean() < 2e-3
        discoveries += int((found.q <= 0.01).sum() > 0)
    np.testing.assert_allclose(np.mean(shares, axis=0), 1, atol=0.1)
    assert discoveries <= 1  # at least one false call in at most 1 % of studies


def test_planted_matches_are_found_at_the_false_discovery_rate_and_thresholds_agree():
    generator = np.random.default_rng(6)
    false, found_true = [], []
    for _ in range(20):
        n_active = np.exp(generator.uniform(1, 10, 6000)).astype(np.int64)
        draws = null_maxima(n_active, 5, generator).astype(np.float32)
        real = generator.random(6000) < 0.3
        r = np.where(real, np.maximum(draws[:, 0], generator.random(6000)), draws[:, 0]).astype(
            np.float32
        )
        r[::100] = np.nan
        found = calibrate(r, n_active, draws[:, 1:], n_tokens=100_000, fdr=0.05)
        assert found.threshold.dtype == found.null_r.dtype == found.excess.dtype == np.float32
        called = found.q <= 0.05
        np.testing.assert_array_equal(called, r >= found.threshold)
        false.append((called & ~real).sum() / called.sum())
        found_true.append(called[real].mean())
    assert np.mean(false) <= 0.05
    assert np.mean(found_true) > 0.5


def test_the_threshold_falls_with_frequency():
    n_active = np.repeat([3, 10, 100, 1000, 10_000], 1200)
    generator = np.random.default_rng(0)
    draws = null_maxima(n_active, 4, generator)
    found = calibrate(np.full(6000, 0.9), n_active, draws, n_tokens=100_000)
    assert (np.diff(found.threshold.reshape(5, 1200)[:, 0]) < 0).all()
    assert (np.ptp(found.threshold.reshape(5, 1200), axis=1) == 0).all()
    # one pool a count, 4800 draws each: the 95 % quantile of the feature's own count
    np.testing.assert_allclose(
        found.null_r.reshape(5, 1200)[:, 0],
        np.quantile(draws.reshape(5, -1), 0.95, axis=1),
        rtol=0.01,
    )


def test_the_tail_is_held_by_draws_and_fit():
    # Exponential draws, 3000 of them: the fitted tail meets -log p beyond the largest, within its
    # error.
    generator = np.random.default_rng(1)
    over = []
    for _ in range(12):
        pools = null._Pools.of(np.zeros(3000), generator.exponential(size=(3000, 1)))
        assert pools.level[0] == pytest.approx(0.1 / 3001)
        over.append(pools.p_of(generator.exponential(size=200_000), np.zeros(200_000)))
    share = np.mean([(p <= 1e-4).mean() for p in over])
    assert 1e-5 < share < 2e-4
    assert null._generalised_pareto(np.full(100, 0.2)) == (0.0, pytest.approx(0.2))
    shape, scale = null._generalised_pareto(
        np.sort(scipy.stats.genpareto(0.2, scale=3).rvs(50_000, random_state=0))
    )
    assert (shape, scale) == pytest.approx((0.2, 3), rel=0.1)


def sparse_features(
    kind: str, document: np.ndarray, n: int, generator: np.random.Generator
) -> scipy.sparse.csr_array:
    """Independent: "rare", 3 to 40 tokens; "token", 0.2 to 2 %; "topic", 30 % of some documents."""
    columns = []
    for _ in range(n):
        if kind == "topic":
            about = generator.random(document.max() + 1) < generator.uniform(0.01, 0.05)
            columns.append(
                np.flatnonzero(about[document] & (generator.random(len(document)) < 0.3))
            )
        else:
            low, high = (3, 40) if kind == "rare" else (0.002 * len(document), 0.02 * len(document))
            count = int(np.exp(generator.uniform(np.log(low), np.log(high))))
            columns.append(np.sort(generator.choice(len(document), count, replace=False)))
    indptr = np.concatenate([[0], np.cumsum([len(column) for column in columns])])
    value = generator.exponential(size=indptr[-1])
    csc = scipy.sparse.csc_array((value, np.concatenate(columns), indptr), shape=(len(document), n))
    return scipy.sparse.csr_array(csc)


def best_r(x: scipy.sparse.csr_array, y: scipy.sparse.csr_array) -> np.ndarray:
    """Largest Pearson correlation of every column of x with those of y, from raw moments."""
    n = x.shape[0]
    moments = [(m.sum(axis=0) / n, m.multiply(m).sum(axis=0) / n) for m in (x, y)]
    (mean_x, square_x), (mean_y, square_y) = moments
    sd_x, sd_y = np.sqrt(square_x - mean_x**2), np.sqrt(square_y - mean_y**2)
    covariance = (x.T @ y).toarray() / n - np.outer(mean_x, mean_y)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = covariance / np.outer(sd_x, sd_y)
    return np.where(np.isnan(r), -2, r).max(axis=1)


@pytest.mark.parametrize("kind", ["rare", "token", "topic"])
def test_unrelated_features_of_real_shape_have_uniform_p_under_exchanges(kind):
    generator = np.random.default_rng(7)
    shares, discoveries, undefined = [], 0, 0
    for study in range(4):
        document = documents(generator, 250, 100, window=32)
        a, b = (sparse_features(kind, document, n, generator) for n in (500, 600))
        orders = document_exchanges(document, 4, seed=study)
        draws = np.stack([best_r(a, b[order]) for order in orders], axis=1)
        n_active = np.bincount(a.indices, minlength=500)
        r = np.where(n_active > 0, best_r(a, b), np.nan)
        undefined += int(np.isnan(r).sum())
        found = calibrate(
            r, n_active, np.where(n_active[:, None] > 0, draws, np.nan), n_tokens=len(document)
        )
        shares.append([np.nanmean(found.p <= level) / level for level in (0.5, 0.1, 0.05)])
        discoveries += int((found.q <= 0.01).sum())
    assert undefined < 100
    # topics: 250 documents of different lengths in blocks leave the null a little low, as the
    # module says
    np.testing.assert_allclose(np.mean(shares, axis=0), 1, atol=0.35 if kind == "topic" else 0.2)
    assert discoveries == 0


def test_unusable_input_is_refused():
    r, count = np.array([0.5, 0.2]), np.array([3, 4])
    with pytest.raises(InputError, match="at least one draw"):
        calibrate(r, count, np.zeros((2, 0)), n_tokens=10)
    with pytest.raises(InputError, match="each of the 2 features"):
        calibrate(r, count, np.zeros((3, 2)), n_tokens=10)
    with pytest.raises(InputError, match="fdr is 1"):
        calibrate(r, count, np.zeros((2, 2)), n_tokens=10, fdr=1)
    with pytest.raises(InputError, match="no draw has a defined"):
        calibrate(r, count, np.full((2, 2), np.nan), n_tokens=10)
    empty = calibrate(np.full(2, np.nan), count, np.full((2, 2), np.nan), n_tokens=10)
    assert np.isnan(empty.q).all() and np.isnan(empty.threshold).all()
