"""Regression on another model's features: planted sums, the exact solution; lists by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_array

from homolog.analyses.exclusive.lists import LISTS_SCHEMA, lists
from homolog.analyses.exclusive.regression import (
    SHARES,
    TEST,
    TRAIN,
    VALIDATION,
    exclusive_r2,
    regress,
)
from homolog.analyses.stream import split_documents
from homolog.errors import InputError
from homolog.features import SparseFeatures

N = 6000
DOCUMENT = (np.arange(N) // 60).astype(np.int32)


def sparse(rng: np.random.Generator, n_features: int, share: float = 0.05) -> np.ndarray:
    return (rng.random((N, n_features)) * (rng.random((N, n_features)) < share)).astype(np.float32)


def side(dense: np.ndarray, model: str, layer: int, stream: str = "s") -> SparseFeatures:
    return SparseFeatures(csr_array(dense), stream, DOCUMENT, model, layer)


def test_a_sum_of_three_is_found_and_what_is_independent_is_not():
    rng = np.random.default_rng(0)
    first, second = sparse(rng, 50), sparse(rng, 40)
    three = first[:, 4] + first[:, 20] + second[:, 9]
    noisy = second[:, 3] + rng.normal(size=N).astype(np.float32) * second[:, 3].std()
    own = side(
        np.stack([three, sparse(rng, 1)[:, 0], noisy, np.zeros(N, np.float32), first[:, 4]], 1),
        "B",
        2,
    )
    single = [np.corrcoef(three, x)[0, 1] for x in (first[:, 4], first[:, 20], second[:, 9])]
    assert np.allclose(single, 1 / 3**0.5, atol=0.04)  # each alone explains a third
    asked = pl.DataFrame({"layer": [2] * 5, "feature": [4, 0, 1, 2, 3]})
    found = exclusive_r2(asked, [own], [side(first, "A", 0), side(second, "A", 1)])
    same, three_r2, other, half, constant = found["exclusive_r2"].to_list()
    assert same > 0.999 and three_r2 > 0.99
    assert -0.05 < other < 0.02
    assert half == pytest.approx(0.5, abs=0.06)
    assert np.isnan(constant) and found["steps"].to_list()[4] == 0
    assert found.columns == ["layer", "feature", "exclusive_r2", "steps"]


def test_many_steps_reach_the_exact_least_squares():
    rng = np.random.default_rng(1)
    x = sparse(rng, 30, 0.3)
    x[:, 5] = 0  # never active
    y = np.stack(
        [x @ rng.normal(size=30) + rng.normal(size=N), x[:, 0] + 0.1 * rng.normal(size=N)], 1
    )
    part = split_documents(DOCUMENT, SHARES)
    score, steps = regress(
        y, [csr_array(x[:, :12]), csr_array(x[:, 12:])], part, most_steps=200, patience=200
    )
    train, test = part == TRAIN, part == TEST
    design = np.column_stack([np.ones(N), x])
    exact = design @ np.linalg.lstsq(design[train], y[train], rcond=None)[0]
    total = ((y[test] - y[test].mean(0)) ** 2).sum(0)
    assert np.allclose(score, 1 - ((y[test] - exact[test]) ** 2).sum(0) / total, atol=2e-3)
    assert (steps > 1).all()


def test_nothing_of_the_test_documents_is_used():
    rng = np.random.default_rng(2)
    x, part = sparse(rng, 20), split_documents(DOCUMENT, SHARES)
    y = x[:, :1].astype(np.float64)
    changed, test = x.copy(), part == TEST
    changed[test] = sparse(rng, 20)[test]
    (a,), _ = regress(y, [csr_array(x)], part)
    (b,), _ = regress(y, [csr_array(changed)], part)
    assert a > 0.999 and b < 0.0  # the same weights, now on features that say nothing


def test_a_feature_without_one_of_the_parts_is_undefined():
    x, part = sparse(np.random.default_rng(3), 4), split_documents(DOCUMENT, SHARES)
    y = np.stack([np.where(part == name, 0.0, x[:, 0]) for name in (TRAIN, VALIDATION, TEST)], 1)
    score, steps = regress(y, [csr_array(x)], part)
    assert np.isnan(score).all() and (steps == 0).all()


def test_documents_are_dealt_out_whole():
    part = split_documents(DOCUMENT, SHARES, seed=4)
    assert all(len(np.unique(part[d == DOCUMENT])) == 1 for d in range(100))
    assert np.bincount(part[::60]).tolist() == [40, 10, 50]
    assert not np.array_equal(part, split_documents(DOCUMENT, SHARES, seed=5))


def test_other_streams_and_missing_layers_are_refused():
    x = sparse(np.random.default_rng(5), 3)
    asked = pl.DataFrame({"layer": [0], "feature": [1]})
    with pytest.raises(InputError, match="stream"):
        exclusive_r2(asked, [side(x, "B", 0)], [side(x, "A", 0, "another")])
    with pytest.raises(InputError, match="layers given"):
        exclusive_r2(asked, [side(x, "B", 1)], [side(x, "A", 0)])
    with pytest.raises(InputError, match="the other model"):
        exclusive_r2(asked, [side(x, "B", 0)], [])


def study() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Features of A, one of each sort.

    Best homolog, homolog, one-sided homolog, exclusive, rare, not learnt again, high r.
    """
    n = 7
    own = {"model": ["A"] * n, "label": ["sae"] * n}
    same = own | {"layer": [0] * 4 + [1] * 3, "feature": list(range(n))}
    main = pl.DataFrame(
        same
        | {
            "comparison": ["main"] * n,
            "best_model": ["B"] * n,
            "freq": [0.01, 0.01, 0.01, 0.01, 1e-4, 0.01, 0.01],
            "r": [0.9, 0.8, 0.85, 0.3, 0.2, 0.1, 0.95],
            "homolog": [True, True, True, False, False, False, False],
            "mutual": [True, True, False, True, True, True, True],
            "best_layer": [0] * n,
            "best_feature": [5] * n,
        }
    )
    seeds = pl.DataFrame(
        same
        | {
            "comparison": ["sae-seed"] * n,
            "best_model": ["A"] * n,
            "r": [0.9, 0.9, 0.9, 0.9, 0.9, 0.5, 0.9],
        }
    )
    # Of the second dictionary, whose features are not those of the main one.
    second = seeds.with_columns(label=pl.lit("seed1"), r=pl.lit(0.99))
    saes = pl.DataFrame(
        {"model": ["A", "A"], "label": ["sae"] * 2, "layer": [0, 1], "passed": [True, True]}
    )
    return pl.concat([main, seeds, second], how="diagonal").cast(
        {"layer": pl.Int32, "feature": pl.Int32}
    ), saes


def features_of(table: pl.DataFrame, name: str) -> list[int]:
    return table.filter(pl.col("list") == name)["feature"].to_list()


def test_the_lists_by_hand():
    matches, saes = study()
    table = lists(matches, saes)
    assert dict(table.schema) == LISTS_SCHEMA
    assert features_of(table, "shared") == [0, 1]
    assert features_of(table, "exclusive") == [3]
    assert table["rank"].to_list() == [1, 2, 1]
    assert table["own_seed_r"].to_list() == pytest.approx([0.9] * 3)
    without = lists(matches.filter(pl.col("comparison") == "main"), saes)
    assert features_of(without, "exclusive") == [
        5,
        3,
    ]  # no second seed: feature 5 cannot be told from a learnt one
    assert without["own_seed_r"].is_null().all()
    failed = saes.with_columns(passed=pl.col("layer") == 1)
    assert features_of(lists(matches, failed), "exclusive") == []
    assert features_of(lists(matches, saes, most=1), "shared") == [0]
    with pytest.raises(InputError, match="the null"):
        lists(matches.with_columns(homolog=pl.lit(None, pl.Boolean)), saes)
