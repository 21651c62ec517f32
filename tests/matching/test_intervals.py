"""Intervals from resampled documents, against documents really concatenated and known answers."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import scipy.sparse
from tests.matching.all_layers import match_models
from tests.reference import pearson_exact

from homolog.errors import InputError
from homolog.features import Activations, DenseFeatures, SparseFeatures
from homolog.matching import Columns, Resamples, intervals, prepare, resampled_pairs, summarise
from homolog.matching.tables import SUMMARY


def prepared(features: Activations) -> Columns:
    return prepare(features.matrix)


def drawn_documents(resamples: Resamples, replicate: int) -> list[int]:
    return [d for d, times in enumerate(resamples.counts[:, replicate]) for _ in range(int(times))]


@pytest.mark.parametrize("kinds", ["ss", "sd", "ds", "dd"])
def test_replicates_equal_documents_concatenated(kinds):
    generator = np.random.default_rng(0)
    document = np.repeat([0, 1, 2, 3, 1], [9, 14, 5, 20, 12])  # document 1 comes back
    sides = []
    for kind in kinds:
        active = generator.random((60, 3)) < (0.1 if kind == "s" else 1)
        sides.append(active * generator.standard_normal((60, 3)) + (5 if kind == "d" else 0))
    a, b = sides
    resamples = Resamples.draw(document, 12, seed=1)
    pairs = np.array([[0, 2], [1, 1], [2, 0], [2, 2]])
    found = resampled_pairs(prepare(a), prepare(b), pairs, resamples)
    expected = [
        [
            pearson_exact.resampled(
                a[:, i], b[:, j], document, drawn_documents(resamples, replicate)
            )
            for replicate in range(12)
        ]
        for i, j in pairs
    ]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def two_models(a: np.ndarray, b: np.ndarray, document: np.ndarray, kind=SparseFeatures):
    return [kind(a, "s", document, "A", 0)], [kind(b, "s", document, "B", 0)]


@pytest.mark.parametrize("kind", [SparseFeatures, DenseFeatures])
def test_equal_documents_give_an_interval_of_zero_width(kind):
    generator = np.random.default_rng(0)
    x, y = (np.tile((generator.random((25, 4)) < 0.2) * 1.0, (30, 1)) for _ in range(2))
    a, b = two_models(x, y, np.repeat(np.arange(30, dtype=np.int32), 25), kind)
    matches = match_models(a, b).matches
    summary = summarise(matches, a, b, prepared, seed=0, n_replicates=40)
    for name in ("mean", "median"):
        np.testing.assert_allclose(summary[f"{name}_lo"], summary[name], atol=1e-6)
        np.testing.assert_allclose(summary[f"{name}_hi"], summary[name], atol=1e-6)


def test_two_documents_by_hand():
    # Document 0: y = x, r = 1.  Document 1: y = 1 - x, r = -1.  Both once: r = 0.  Draws are (2,0),
    # (1,1), (0,2) with chances 1/4, 1/2, 1/4, so the 95 % interval is [-1, 1], but for the mean of
    # the 400 draws, about which it is taken and laid around 0; no mean is beyond -1 or 1.
    x = np.array([[0.0], [1], [0], [1]])
    y = np.array([[0.0], [1], [1], [0]])
    a, b = two_models(x, y, np.array([0, 0, 1, 1], dtype=np.int32))
    summary = summarise(match_models(a, b).matches, a, b, prepared, seed=0, n_replicates=400)
    row = summary.filter((pl.col("model") == "A") & (pl.col("stratum") == "all")).row(0, named=True)
    draws = Resamples.draw(np.array([0, 0, 1, 1]), 400, seed=0).counts
    off = ((draws[0] - draws[1]) / 2).mean()
    ends = max(-1, -1 - off), min(1, 1 - off)
    for name in ("mean", "median"):
        found = row[name], row[f"{name}_lo"], row[f"{name}_hi"]
        assert found == pytest.approx((0, *ends), abs=1e-6)


def test_summary_equals_a_slow_bootstrap():
    generator = np.random.default_rng(3)
    document = np.repeat(np.arange(12, dtype=np.int32), 25)
    shared = generator.exponential(size=(300, 6)) * (generator.random((300, 6)) < 0.3)
    strength = generator.random((12, 6))[document]  # how well features agree differs by document
    other = generator.exponential(size=(300, 6)) * (generator.random((300, 6)) < 0.3)
    a, b = two_models(shared, strength * shared + (1 - strength) * other, document)
    matches = match_models(a, b).matches
    row = summarise(matches, a, b, prepared, seed=5, n_replicates=300).row(0, named=True)
    partner = matches.filter(pl.col("model") == "A")["best_feature"]
    x, y = a[0].matrix.toarray().astype(np.float64), b[0].matrix.toarray().astype(np.float64)
    slow = np.random.default_rng(99)  # its own draws
    means, medians = [], []
    for _ in range(300):
        rows = np.concatenate([np.flatnonzero(document == d) for d in slow.integers(0, 12, 12)])
        r = [np.corrcoef(x[rows, i], y[rows, partner[i]])[0, 1] for i in range(6)]
        means.append(np.mean(r))
        medians.append(np.median(r))
    for name, values, part in (("mean", means, 0.25), ("median", medians, 0.3)):
        around = row[name] + np.quantile(values, [0.025, 0.975]) - np.mean(values)
        found = [row[f"{name}_lo"], row[f"{name}_hi"]]
        np.testing.assert_allclose(found, around, atol=part * np.ptp(around))


def test_features_that_fire_in_few_documents_do_not_move_the_interval():
    """Left out of resamples without their documents, they would leave the others' higher mean."""
    generator = np.random.default_rng(0)
    document = np.repeat(np.arange(40, dtype=np.int32), 25)
    x = generator.exponential(size=(1000, 60)) * (generator.random((1000, 60)) < 0.2)
    y = x + 0.3 * generator.exponential(size=x.shape)
    rare = slice(20, 60)
    noise = generator.exponential(size=x.shape)
    keep = document[:, None] == np.arange(60)[None] % 40
    x[:, rare], y[:, rare] = (x * keep)[:, rare], (noise * keep)[:, rare]
    a, b = two_models(x, y, document)
    matches = match_models(a, b).matches
    row = summarise(matches, a, b, prepared, seed=0, n_replicates=200).row(0, named=True)
    for name in ("mean", "median"):
        assert row[f"{name}_lo"] < row[name] < row[f"{name}_hi"]


def test_strata_count_dead_and_rare_features():
    x = np.zeros((200, 4))
    x[::2, 0], x[::40, 1], x[7, 2] = 1, 1, 1  # 100, 5, 1 and 0 active tokens
    a, b = two_models(x, x, np.repeat(np.arange(10, dtype=np.int32), 20))
    summary = summarise(match_models(a, b).matches, a, b, prepared, seed=0, n_replicates=50)
    assert dict(summary.schema) == SUMMARY and len(summary) == 6
    rows = summary.filter(pl.col("model") == "A")
    assert rows["stratum"].to_list() == ["all", "alive", "frequent"]
    assert rows["n_features"].to_list() == [4, 3, 1]
    assert rows["n_undefined"].to_list() == [1, 0, 0]
    np.testing.assert_allclose(rows["mean"], 1, atol=1e-6)
    assert rows["share_above_07"].to_list() == [1, 1, 1]


def test_two_dictionaries_of_one_model_have_a_row_each_way():
    generator = np.random.default_rng(0)
    x = generator.random((200, 2))
    y = np.stack([x[:, 0], 1 - x[:, 0], x.sum(axis=1)], axis=1)
    document = np.repeat(np.arange(10, dtype=np.int32), 20)
    a = [SparseFeatures(x, "s", document, "A", 0)]
    b = [SparseFeatures(y, "s", document, "A", 0, "seed1")]
    summary = summarise(match_models(a, b).matches, a, b, prepared, seed=0, n_replicates=5)
    r = np.corrcoef(x.T, y.T)[:2, 2:]
    rows = summary.filter(stratum="all").select("model", "label", "best_model", "best_label")
    assert rows.rows() == [("A", "sae", "A", "seed1"), ("A", "seed1", "A", "sae")]
    means = summary.filter(stratum="all")["mean"]
    np.testing.assert_allclose(means, [r.max(axis=1).mean(), r.max(axis=0).mean()], atol=1e-6)


def test_a_model_without_live_features_has_no_numbers():
    x = np.zeros((40, 2))
    a, b = two_models(x, np.eye(40, 2), np.repeat(np.arange(4, dtype=np.int32), 10))
    summary = summarise(match_models(a, b).matches, a, b, prepared, seed=0, n_replicates=5)
    row = summary.row(0, named=True)
    assert row["n_undefined"] == row["n_features"] == 2
    assert all(np.isnan(row[name]) for name in ("mean", "mean_lo", "median_hi", "share_above_07"))


def test_the_seed_decides():
    generator = np.random.default_rng(0)
    x, y = generator.random((100, 3)), generator.random((100, 3))
    a, b = two_models(x, y, np.repeat(np.arange(10, dtype=np.int32), 10), DenseFeatures)
    matches = match_models(a, b).matches
    first, again, other = (
        summarise(matches, a, b, prepared, seed=seed, n_replicates=20) for seed in (1, 1, 2)
    )
    assert first.equals(again) and not first.equals(other)
    with pytest.raises(InputError, match="n_replicates is 0"):
        summarise(matches, a, b, prepared, seed=0, n_replicates=0)


def test_chunks_of_pairs_change_nothing(monkeypatch):
    x = scipy.sparse.random_array((500, 30), density=0.05, rng=0, format="csr")
    resamples = Resamples.draw(np.arange(500) // 50, 10, seed=0)
    pairs = np.array([[i, (i * 7) % 30] for i in range(30)])
    columns = prepare(x)
    whole = resampled_pairs(columns, columns, pairs, resamples)
    monkeypatch.setattr(intervals, "_COLUMNS_AT_ONCE", 4)
    np.testing.assert_array_equal(resampled_pairs(columns, columns, pairs, resamples), whole)
