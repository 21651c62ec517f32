"""Entropy of the activating token, and what it predicts: planted features, a slow computation."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from tests.analyses.streams import features_of, random_features, random_stream, windows_of

from homolog.analyses.features.measure import example_kernels, token_statistics
from homolog.analyses.features.measure.token_statistics import halves
from homolog.corpus import TokenWindows
from homolog.errors import InputError
from homolog.features import SparseFeatures


def test_a_feature_of_one_token() -> None:
    windows = random_stream(0)
    found = token_statistics(features_of(3.0 * (windows.tokens == 5)[..., None], windows), windows)
    assert found["token_entropy"].to_list() == [0.0]
    assert math.copysign(1, found["token_entropy"][0]) == 1
    assert found["token_r2"][0] == pytest.approx(1, abs=1e-6)
    assert found["top_tokens"].to_list() == [[5]]
    n = int(((windows.tokens == 5) & windows.mask).sum())
    assert found.select("n_active", "mean_active", "max").row(0) == (n, 3.0, 3.0)
    assert found["freq"][0] == n / windows.mask.sum()


def test_a_feature_of_eight_equal_tokens_has_three_bits() -> None:
    windows = windows_of(np.tile(np.arange(16), (20, 1)))
    found = token_statistics(features_of((windows.tokens < 8)[..., None], windows), windows)
    assert found["token_entropy"][0] == pytest.approx(3, abs=1e-6)
    assert found["token_r2"][0] == pytest.approx(1, abs=1e-6)


def test_entropy_weighs_by_the_activation() -> None:
    windows = windows_of(np.array([[0, 1, 2, 2]]))
    values = np.array([[[4.0], [2.0], [1.0], [1.0]]])
    found = token_statistics(features_of(values, windows), windows)
    assert found["token_entropy"][0] == pytest.approx(0.5 * 1 + 2 * 0.25 * 2)
    assert found["top_tokens"].to_list() == [[0, 1, 2]]  # sums 4, 2, 2: of equal ones the lower id
    assert math.isnan(found["token_r2"][0])  # one document: the other half is empty


def test_a_feature_that_does_not_see_the_token() -> None:
    rng = np.random.default_rng(0)
    p = np.array([0.5, 0.25, 0.125, 0.125])
    windows = windows_of(rng.choice(4, (400, 100), p=p))
    found = token_statistics(features_of(rng.random((400, 100, 1)) < 0.3, windows), windows)
    assert found["token_entropy"][0] == pytest.approx(1.75, abs=0.03)
    # 4 means in place of 1 from 20,000 tokens: about -4 / 20,000
    assert -0.001 < found["token_r2"][0] < 0.0005


def test_a_feature_of_a_bigram() -> None:
    # B = 1 follows A = 0 in one half of its places and C = 2 in the other; the feature fires on B
    # after A
    windows = windows_of(np.tile([0, 1, 2, 1, 3, 3, 3, 3, 3, 3], (10, 1)))
    values = np.zeros((10, 10, 1))
    values[:, 1] = 1
    found = token_statistics(features_of(values, windows), windows)
    # mean on B 1/2, so the squared error is 1/4 on 2 of 10 tokens; the variance is 1/10 - 1/100
    assert found["token_r2"][0] == pytest.approx(1 - 0.05 / 0.09)
    assert found["token_entropy"][0] == 0


def test_tokens_of_one_half_alone_are_predicted_by_the_overall_mean() -> None:
    windows = windows_of(np.array([[0, 0, 1, 2], [0, 0, 3, 3]]))
    values = np.array([[1.0, 1, 4, 0], [1.0, 1, 0, 2]])[..., None]
    # first half: means 1 (token 0), 1.5 overall; second: 1 (token 0), 1 overall
    error_first, spread_first = (
        (4 - 1) ** 2 + (0 - 1) ** 2,
        4 + 4 * 1.5 - 6 * 1.5 + 8,
    )  # 1 + 1 + 16 - 4 * 1.5 ** 2
    error_second, spread_second = 1.5**2 + 0.5**2, 1 + 1 + 4 - 4 * 1.0
    assert spread_first == 9
    found = token_statistics(features_of(values, windows), windows)
    expected = 1 - (error_first / spread_first + error_second / spread_second) / 2
    assert found["token_r2"][0] == pytest.approx(expected)


def slow(x: SparseFeatures, windows: TokenWindows, feature: int) -> tuple[float, float]:
    """Entropy and r2 from the dense column, as the formulas stand."""
    value, token = x.matrix.toarray()[:, feature].astype(np.float64), windows.tokens[windows.mask]
    weight = np.bincount(token, value)
    p = weight[weight > 0] / max(weight.sum(), 1e-300)
    half, parts = halves(x.document), []
    for b in (0, 1):
        fit, score = half != b, half == b
        mean = np.full(token.max() + 1, value[fit].mean())
        for t in np.unique(token[fit]):
            mean[t] = value[fit & (token == t)].mean()
        spread = ((value[score] - value[score].mean()) ** 2).sum()
        parts.append(
            1 - ((value[score] - mean[token[score]]) ** 2).sum() / spread
            if spread > 0
            else math.nan
        )
    return (-(p * np.log2(p)).sum() if len(p) else math.nan), sum(parts) / 2


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_a_slow_computation(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example_kernels, "BLOCK_ENTRIES", 700)
    windows = random_stream(seed, n_windows=30, n_ids=150)  # many ids of one half alone
    x = random_features(windows, 10, seed)
    found = token_statistics(x, windows, top=3)
    expected = np.array([slow(x, windows, feature) for feature in range(10)])
    np.testing.assert_allclose(found["token_entropy"], expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found["token_r2"], expected[:, 1], rtol=1e-5, atol=1e-6)
    statistics = x.statistics
    np.testing.assert_array_equal(found["n_active"], statistics.n_active)
    np.testing.assert_array_equal(found["freq"], statistics.freq)
    np.testing.assert_array_equal(found["max"], statistics.max.astype(np.float32))
    active = statistics.mean[1:] * x.n_tokens / statistics.n_active[1:]
    np.testing.assert_allclose(found["mean_active"][1:], active, rtol=1e-6)
    token = windows.tokens[windows.mask]
    for feature, ids in enumerate(found["top_tokens"].to_list()):
        sums = np.bincount(token, x.matrix.toarray()[:, feature])
        assert ids == [t for t in np.argsort(-sums, kind="stable")[:3] if sums[t] > 0]


def test_undefined_is_nan() -> None:
    windows = random_stream(0)
    constant = np.full((*windows.tokens.shape, 1), 0.3)
    found = token_statistics(
        features_of(np.concatenate([0 * constant, constant], axis=2), windows), windows
    )
    assert found.select(pl.col("mean_active", "token_entropy", "token_r2").is_nan()).rows() == [
        (True, True, True),
        (False, False, True),
    ]
    assert (
        found["max"].to_list() == pytest.approx([0, 0.3]) and found["top_tokens"].to_list()[0] == []
    )


def test_halves_are_whole_documents_of_like_size() -> None:
    document = np.repeat([9, 4, 7, 1, 2, 3], [50, 40, 30, 20, 10, 10])
    half = halves(document)
    assert [int(half[document == d][0]) for d in (9, 4, 7, 1, 2, 3)] == [0, 1, 1, 0, 0, 1]
    assert all(len(np.unique(half[document == d])) == 1 for d in document)
    assert (half == 0).sum() == (half == 1).sum() == 80


def test_errors() -> None:
    windows = random_stream(0)
    x = random_features(windows, 2, 0)
    with pytest.raises(InputError, match="encoded on the stream"):
        token_statistics(x, random_stream(1))
    with pytest.raises(InputError, match="top is -1"):
        token_statistics(x, windows, top=-1)
