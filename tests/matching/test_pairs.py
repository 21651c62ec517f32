"""Pairs of layers: exchanges against reordered matrices, files of both, merged nulls."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from tests.matching.all_layers import match_models

from homolog.features import SparseFeatures
from homolog.matching import PairMatch, match_pair, max_pearson, prepare
from homolog.matching.prepared import store_columns, stored_columns

N_TOKENS = 400
DOCUMENT = np.repeat(np.arange(10, dtype=np.int32), 40)


def features(seed: int, n_features: int = 12) -> scipy.sparse.csr_array:
    """Densities on both sides of the threshold, and a column that is constant."""
    generator = np.random.default_rng(seed)
    density = np.resize([0.02, 0.05, 0.4, 0.0, 0.1], n_features)
    x = (generator.random((N_TOKENS, n_features)) < density) * generator.exponential(
        size=(N_TOKENS, n_features)
    )
    return scipy.sparse.csr_array(x.astype(np.float32))


def order(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(N_TOKENS)


def test_reordered_columns_are_those_of_the_reordered_matrix():
    a, b, rows = features(0), features(1, 15), order(3)
    expected_b, found_b = prepare(b.toarray()[rows]), prepare(b).reordered(rows)
    for x, y in (
        ((prepare(a), found_b), (a, expected_b)),
        ((found_b, prepare(a)), (expected_b, a)),
    ):
        found, expected = max_pearson(*x, k=2), max_pearson(*y, k=2)
        np.testing.assert_array_equal(found.a_to_b.index, expected.a_to_b.index)
        np.testing.assert_allclose(found.a_to_b.r, expected.a_to_b.r, atol=2e-7)
        np.testing.assert_allclose(found.b_to_a.r, expected.b_to_a.r, atol=2e-7)
    for found, expected in zip(found_b.by_column, expected_b.by_column, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_two_orders_after_each_other():
    b, first, second = prepare(features(1)), order(3), order(4)
    for found, expected in zip(
        b.reordered(first).reordered(second).packed.by_token(),
        b.reordered(first[second]).packed.by_token(),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


def test_null_of_a_pair_is_the_best_of_reordered_features():
    a, b = features(0), features(1)
    pair = match_pair(prepare(a), prepare(b), exchanges=[order(5), order(6)])
    for number, rows in enumerate((order(5), order(6))):
        x, y = a.toarray().T, b.toarray()[rows].T
        with np.errstate(invalid="ignore", divide="ignore"):
            r = np.corrcoef(x, y)[: len(x), len(x) :]
        lowest = np.where(np.isnan(r), -9, r)
        expected = np.where(lowest.max(axis=1) == -9, np.nan, lowest.max(axis=1))
        np.testing.assert_allclose(pair.null_a[:, number], expected, atol=1e-6)
        expected = np.where(lowest.max(axis=0) == -9, np.nan, lowest.max(axis=0))
        np.testing.assert_allclose(pair.null_b[:, number], expected, atol=1e-6)


def test_a_pair_survives_its_file():
    pair = match_pair(prepare(features(0)), prepare(features(1, 9)), exchanges=[order(5)])
    back = PairMatch.from_arrays(pair.arrays())
    for side in ("a_to_b", "b_to_a"):
        np.testing.assert_array_equal(getattr(back, side).r, getattr(pair, side).r)
        np.testing.assert_array_equal(getattr(back, side).index, getattr(pair, side).index)
    np.testing.assert_array_equal(back.reversed.null_a, pair.null_b)


@pytest.mark.parametrize("n_features", [12, 70_000])
def test_stored_columns_match_as_prepared_ones(tmp_path, n_features):
    """Beyond 65,536 columns their numbers no longer fit 16 bits."""
    a, b = features(0, n_features), features(1, 10)
    for name, x in (("a", a), ("b", b)):
        store_columns(prepare(x), tmp_path / name, "key")
    assert stored_columns(tmp_path / "a", "another key", "packed") is None
    expected = max_pearson(b, a, 2)
    left, right = (
        stored_columns(tmp_path / "b", "key", "by_column"),
        stored_columns(tmp_path / "a", "key", "packed"),
    )
    assert left is not None and right is not None
    found = max_pearson(left, right, 2)
    assert found.a_to_b.r.tobytes() == expected.a_to_b.r.tobytes()
    assert found.b_to_a.index.tobytes() == expected.b_to_a.index.tobytes()


def test_damaged_columns_are_named_and_not_used(tmp_path, caplog):
    store_columns(prepare(features(0)), tmp_path, "key")
    path = tmp_path / "packed.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert stored_columns(tmp_path, "key", "packed") is None
    assert "packed.safetensors is damaged" in caplog.text


def test_the_null_over_layers_is_the_highest_of_all_layers():
    a = [SparseFeatures(features(layer), "s", DOCUMENT, "A", layer) for layer in range(2)]
    b = [SparseFeatures(features(layer + 5), "s", DOCUMENT, "B", layer) for layer in range(3)]
    matches = match_models(a, b, exchanges=[order(9)]).matches
    reordered = [
        max_pearson(a[0].matrix, prepare(layer.matrix).reordered(order(9))).a_to_b.r[:, 0]
        for layer in b
    ]
    highest = np.fmax.reduce(reordered)
    first = matches.filter((matches["model"] == "A") & (matches["layer"] == 0))
    assert np.isnan(first["p"].to_numpy()[np.isnan(highest)]).all()
    partners = matches.filter(matches["partner_layer"] >= 0)
    # one to one: as many on both sides
    assert len(partners) == 2 * partners.filter(partners["model"] == "A").height
    there = partners.filter(partners["model"] == "B")
    forward = {
        (r["layer"], r["feature"], r["partner_layer"], r["partner_feature"])
        for r in partners.filter(partners["model"] == "A").to_dicts()
    }
    assert forward == {
        (r["partner_layer"], r["partner_feature"], r["layer"], r["feature"])
        for r in there.to_dicts()
    }
