"""All layer pairs: merged tables against one big correlation, ties, undefined, refused input."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import scipy.sparse
from tests.matching.all_layers import match_models

from homolog.errors import InputError
from homolog.features import DenseFeatures, SparseFeatures
from homolog.matching.layers import check_layers
from homolog.matching.tables import LAYERS, MATCHES

N_TOKENS = 600
DOCUMENT = np.repeat(np.arange(20, dtype=np.int32), 30)


def model(
    seed: int, name: str, n_layers: int, n_features: int, stream: str = "s"
) -> list[SparseFeatures]:
    generator = np.random.default_rng(seed)
    layers = []
    for layer in range(n_layers):
        density = np.resize([0.0, 0.05, 0.1, 0.4], n_features)
        x = (generator.random((N_TOKENS, n_features)) < density) * generator.exponential(
            size=n_features
        )
        layers.append(SparseFeatures(scipy.sparse.csr_array(x), stream, DOCUMENT, name, layer))
    return layers


def corrcoef(a: list[SparseFeatures], b: list[SparseFeatures]) -> np.ndarray:
    """r of all features of all layers of a with all of b, NaN where constant."""
    x, y = (np.hstack([features.matrix.toarray() for features in side]).T for side in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.corrcoef(x, y, dtype=np.float64)[: len(x), len(x) :]


def test_tables_equal_one_big_correlation():
    a, b = model(0, "A", 3, 8), model(1, "B", 2, 12)
    tables = match_models(a, b)
    assert dict(tables.matches.schema) == MATCHES
    assert dict(tables.layers.schema) == LAYERS
    for own, other, r, width in ((a, b, corrcoef(a, b), 12), (b, a, corrcoef(a, b).T, 8)):
        rows = tables.matches.filter(pl.col("model") == own[0].name)
        ordered = -np.sort(-np.where(np.isnan(r), -9, r), axis=1)
        expected = np.where(ordered == -9, np.nan, ordered)
        np.testing.assert_allclose(rows["r"], expected[:, 0], atol=1e-6)
        np.testing.assert_allclose(rows["runner_up_r"], expected[:, 1], atol=1e-6)
        for prefix in ("best", "runner_up"):
            at = rows[f"{prefix}_layer"].to_numpy() * width + rows[f"{prefix}_feature"].to_numpy()
            value = rows["r" if prefix == "best" else "runner_up_r"].to_numpy()
            some = ~np.isnan(value)
            np.testing.assert_allclose(r[np.flatnonzero(some), at[some]], value[some], atol=1e-6)
        assert rows["n_active"].to_list() == [int(n) for f in own for n in f.statistics.n_active]
        for layer, features in enumerate(own):
            mine = slice(layer * features.n_features, (layer + 1) * features.n_features)
            for best_layer in range(len(other)):
                block = r[mine, best_layer * width : (best_layer + 1) * width]
                highest = np.where(np.isnan(block), -9, block).max(axis=1)
                highest = highest[highest > -9]
                row = tables.layers.filter(
                    (pl.col("model") == features.name)
                    & (pl.col("layer") == layer)
                    & (pl.col("best_layer") == best_layer)
                ).row(0, named=True)
                assert (row["n_features"], row["n_defined"]) == (features.n_features, len(highest))
                found = [row[name] for name in ("mean", "q10", "q25", "median", "q75", "q90")]
                quantiles = np.quantile(highest, [0.1, 0.25, 0.5, 0.75, 0.9])
                np.testing.assert_allclose(found, [highest.mean(), *quantiles], atol=1e-6)


def test_ties_go_to_the_first_layer_and_dead_features_have_no_partner():
    x = np.array([[1.0, 0], [0, 0], [2, 0], [0, 0]])
    a = [SparseFeatures(x, "s", DOCUMENT[:4], "A", layer) for layer in (4, 7)]
    b = [SparseFeatures(x, "s", DOCUMENT[:4], "A", layer, "seed1") for layer in (4, 7)]
    rows = match_models(a, b, comparison="sae-seed").matches.filter(label="sae")
    assert rows.select("model", "best_model", "best_label").unique().rows() == [("A", "A", "seed1")]
    assert rows["best_layer"].to_list() == [4, -1, 4, -1]
    assert rows["best_feature"].to_list() == [0, -1, 0, -1]
    assert rows["runner_up_layer"].to_list() == [7, -1, 7, -1]
    assert rows["r"].is_nan().to_list() == [False, True, False, True]


def test_planted_partners_across_layers():
    a = model(2, "A", 2, 8)
    shuffled = [a[1].matrix[:, ::-1], a[0].matrix[:, ::-1]]
    b = [SparseFeatures(x, "s", DOCUMENT, "B", layer) for layer, x in enumerate(shuffled)]
    rows = match_models(a, b).matches.filter((pl.col("model") == "A") & pl.col("r").is_not_nan())
    assert (rows["best_layer"] == 1 - rows["layer"]).all()
    assert (rows["best_feature"] == 7 - rows["feature"]).all()
    np.testing.assert_allclose(rows["r"], 1, atol=1e-6)


def test_neurons_are_matched_too():
    x = np.random.default_rng(0).standard_normal((N_TOKENS, 5)).astype(np.float32)
    a = [DenseFeatures(x, "s", DOCUMENT, "A", 0)]
    b = [DenseFeatures(-x[:, :3], "s", DOCUMENT, "B", 0)]
    tables = match_models(a, b, comparison="neurons")
    r = np.corrcoef(x.T, -x[:, :3].T)[:5, 5:]
    np.testing.assert_allclose(
        tables.matches.filter(pl.col("model") == "A")["r"], r.max(axis=1), atol=1e-6
    )
    assert tables.matches["kind"].unique().to_list() == ["neuron"]


def test_what_must_not_be_compared_is_refused():
    a = model(0, "A", 1, 4)
    with pytest.raises(InputError, match="same tokens"):
        check_layers(a, model(1, "B", 1, 4, "other"))
    with pytest.raises(InputError, match="at least one"):
        check_layers(a, [])
    with pytest.raises(InputError, match="own label"):
        check_layers(a, a)
    neurons = [DenseFeatures(np.eye(N_TOKENS, 3), "s", DOCUMENT, "B", 0)]
    with pytest.raises(InputError, match="one kind"):
        check_layers(a, neurons)
