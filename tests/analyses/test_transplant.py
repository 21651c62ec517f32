"""Transplants: rotated, affine and unrelated spaces of known numbers; numpy's correlations."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_array
from scipy.stats import ortho_group

from homolog.analyses.transplant.measure import (
    KINDS,
    TRANSPLANT_SCHEMA,
    feature_correlations,
    fit_map,
    transplant,
)
from homolog.dictionaries import SparseAutoencoder
from homolog.errors import InputError
from homolog.matching.spaces import SpaceMoments

N, D = 6000, 24
DOCUMENT = (np.arange(N) // 50).astype(np.int32)


def planted() -> tuple[torch.Tensor, SparseAutoencoder]:
    """Sparse sums of orthonormal directions with a little noise, and the dictionary of those."""
    rng = np.random.default_rng(0)
    directions = torch.from_numpy(ortho_group.rvs(D, random_state=1)).float()
    mean = torch.from_numpy(rng.normal(size=D)).float()
    values = torch.from_numpy((0.5 + rng.random((N, D))) * (rng.random((N, D)) < 0.06)).float()
    y = mean + values @ directions + 0.02 * torch.from_numpy(rng.normal(size=(N, D))).float()
    return y, SparseAutoencoder(directions.T.contiguous(), torch.full((D,), -0.1), directions, mean)


def test_a_rotated_shifted_scaled_twin_is_read_as_well_as_the_own_residuals():
    y, dictionary = planted()
    turn = torch.from_numpy(ortho_group.rvs(D, random_state=4)).float()
    x = 3.0 * y @ turn + 5.0
    table = transplant(x, y, DOCUMENT, dictionary)
    assert table["map"].to_list() == ["orthogonal", "affine"]
    assert table["n_train"].to_list() == table["n_test"].to_list() == [3000, 3000]
    for row in table.iter_rows(named=True):
        assert row["r2"] > 0.9999
        assert row["ev_own"] > 0.9
        assert row["ev_transplant"] == pytest.approx(row["ev_own"], abs=1e-3)
        assert row["ev_mapped"] == pytest.approx(row["ev_own"], abs=1e-3)
        assert row["n_features"] == D and row["feature_r_q25"] > 0.999


def test_only_the_affine_map_undoes_stretched_channels():
    y, dictionary = planted()
    stretch = torch.from_numpy(ortho_group.rvs(D, random_state=5)) @ torch.diag(
        torch.logspace(-1, 1, D).double()
    )
    table = transplant((y.double() @ stretch).float(), y, DOCUMENT, dictionary, ridge=1e-9)
    orthogonal, affine = table["r2"].to_list()
    assert affine > 0.999 and orthogonal < 0.8
    assert table["ev_transplant"][1] > table["ev_transplant"][0] + 0.1


def test_what_says_nothing_explains_nothing():
    y, dictionary = planted()
    x = torch.from_numpy(np.random.default_rng(6).normal(size=(N, 10))).float()
    table = transplant(x, y, DOCUMENT, dictionary)
    assert (table["r2"].abs() < 0.02).all()
    assert (table["ev_transplant"] < 0.05).all()
    assert (table["feature_r_median"].abs() < 0.05).all()


def test_the_maps_are_the_least_squares_and_the_procrustes_solution():
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)) + 2, rng.normal(size=(400, 7))
    y[:, :5] += x
    moments = SpaceMoments([5], [7])
    moments.add([x], [y])
    affine = fit_map(moments, "affine", ridge=0.0)
    exact = np.linalg.lstsq(np.column_stack([x, np.ones(400)]), y, rcond=None)[0]
    assert np.allclose(affine.weight.numpy(), exact[:5]) and np.allclose(
        affine.bias.numpy(), exact[5]
    )
    turned = fit_map(moments, "orthogonal")
    weight = turned.weight.numpy()
    square = weight @ weight.T  # s^2 times the identity, for x is the narrower one
    assert np.allclose(square, square[0, 0] * np.eye(5))
    xc, yc = x - x.mean(0), y - y.mean(0)

    def error(w: np.ndarray) -> float:
        return float(((yc - xc @ w) ** 2).sum())

    for seed in range(5):  # no other rotation near it, and no other scale, is better
        step = ortho_group.rvs(7, random_state=seed)
        near = np.linalg.qr(np.eye(7) + 0.02 * (step - step.T))[0]
        assert error(weight @ near) >= error(weight)
    assert error(1.01 * weight) > error(weight) < error(0.99 * weight)


def test_correlations_are_those_of_numpy():
    rng = np.random.default_rng(8)
    a = (rng.random((300, 4)) * (rng.random((300, 4)) < 0.2)).astype(np.float32)
    b = (a + 0.3 * rng.random((300, 4)) * (rng.random((300, 4)) < 0.2)).astype(np.float32)
    a[:, 1], b[:, 2] = 0, 0  # the first is not defined, the second does not move
    expected = [np.corrcoef(a[:, k], b[:, k])[0, 1] if k != 2 else 0.0 for k in (0, 2, 3)]
    assert np.allclose(feature_correlations(csr_array(a), csr_array(b)), expected)


def test_rows_that_are_not_the_same_tokens_are_refused():
    y, dictionary = planted()
    with pytest.raises(InputError, match="same token"):
        transplant(y, y, DOCUMENT[:-1], dictionary)
    with pytest.raises(InputError, match="vary"):
        transplant(torch.ones(N, 3), y, DOCUMENT, dictionary)


def test_one_document_can_be_fitted_on_or_tested_on_but_not_both():
    y, dictionary = planted()
    table = transplant(y, y, np.zeros(N, np.int64), dictionary)
    assert sorted([table["n_train"][0], table["n_test"][0]]) == [0, N] and table[
        "map"
    ].to_list() == [*KINDS]
    assert dict(table.schema) == TRANSPLANT_SCHEMA and table["n_features"].to_list() == [0, 0]
    assert all(
        table[name].is_nan().all() for name in table.columns if table[name].dtype == pl.Float64
    )
