"""Quality numbers from visible arithmetic, gates, sparse encoding, controls."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.dictionaries.conftest import random_dictionary
from tests.dictionaries.helpers import D_MODEL, D_SAE

from homolog.dictionaries import (
    Dictionary,
    Gates,
    Neurons,
    SparseAutoencoder,
    explained_variance,
    firing_frequency,
    measure_quality,
    random_orthogonal,
    rotated,
)
from homolog.errors import InputError

X = torch.from_numpy((np.random.default_rng(4).standard_normal((3000, D_MODEL)) * 2 + 5).astype(np.float32))


def signs() -> SparseAutoencoder:
    """Two dimensions, four features: the positive and negative part of each coordinate. Reconstructs
    exactly."""
    directions = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    return SparseAutoencoder(directions.T.contiguous(), torch.zeros(4), directions, torch.zeros(2))


def test_predicting_the_mean_scores_exactly_zero() -> None:
    mean = X.double().mean(0)
    assert explained_variance(X.double(), mean.expand(X.shape)) == 0.0
    assert explained_variance(X, X) == 1.0


def test_explained_variance_sums_over_dimensions_and_skips_masked_tokens() -> None:
    x = torch.tensor([[1.0, 10.0], [-1.0, -10.0], [1e6, 1e6]])
    x_hat = torch.tensor([[0.0, 10.0], [0.0, -10.0], [0.0, 0.0]])
    keep = torch.tensor([True, True, False])
    assert explained_variance(x, x_hat, keep) == pytest.approx(1 - 2 / 202)  # not the mean of 0 and 1
    assert math.isnan(explained_variance(torch.ones(3, 2), torch.ones(3, 2)))


def test_counts_and_losses() -> None:
    x = torch.tensor([[2.0, 0.0], [3.0, 1.0], [1.0, 1.0], [2.0, 2.0]])  # coordinates are never negative
    losses = {"clean": 2.0, "spliced": 3.0, "ablated": 6.0}

    def spliced_loss(transform) -> float:
        probe = torch.tensor([[1.0, 0.0]])
        out = transform(probe)
        if torch.equal(out, torch.tensor([[2.0, 1.0]])):
            return losses["ablated"]  # the mean of x
        assert torch.equal(out, probe)
        spliced_loss.calls += 1
        return losses["spliced"]

    spliced_loss.calls = 0
    quality = measure_quality(signs(), x, spliced_loss=spliced_loss, loss_clean=2.0, gates=Gates(l0_share_most=1.0))
    assert quality.n_tokens == 4 and spliced_loss.calls == 1
    assert quality.explained_variance == 1.0
    assert quality.l0 == 7 / 4
    assert quality.dead_share == 0.5
    assert quality.density_quantiles[0] == 0 and quality.density_quantiles[-1] == 1
    assert quality.loss_recovered == (6 - 3) / (6 - 2)
    assert quality.passed and quality.reason == "passed"


def test_gates_give_every_reason() -> None:
    gates = Gates(explained_variance=1.1, l0_least=5.0, l0_share_most=0.1, dead_share=0.1, loss_recovered=0.9)
    x = X[:, :2].abs()  # two of the four features never fire
    quality = measure_quality(signs(), x, spliced_loss=lambda t: float(t(x[:1]).sum()), loss_clean=-9.0, gates=gates)
    for what in ("explained variance", "is below 5", "is above 10%", "dead share", "loss recovered"):
        assert what in quality.reason
    assert not quality.passed


def test_no_loss_to_recover_is_undefined_and_not_judged() -> None:
    quality = measure_quality(signs(), X[:, :2], spliced_loss=lambda t: 3.0, gates=Gates(l0_share_most=1.0))
    assert math.isnan(quality.loss_recovered) and quality.passed
    with pytest.raises(InputError, match="at least one kept token"):
        measure_quality(signs(), X[:, :2], keep=torch.zeros(len(X), dtype=torch.bool))


@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_sparse_encoding_equals_dense(kind: str) -> None:
    sae = random_dictionary(kind)
    dense = sae.encode(X).numpy()
    csr = sae.encode_sparse(X)
    np.testing.assert_allclose(csr.toarray(), dense, atol=1e-4)
    assert csr.has_canonical_format or csr.has_sorted_indices
    assert sae.encode_sparse(X[:0]).shape == (0, D_SAE)
    if kind == "topk":
        assert (np.diff(csr.indptr) <= 7).all()


def test_rotation_is_orthogonal_and_keeps_the_geometry() -> None:
    q = random_orthogonal(D_MODEL, seed=1)
    torch.testing.assert_close(q @ q.T, torch.eye(D_MODEL, dtype=torch.float64))
    sae = random_dictionary("relu")
    turned = rotated(sae, seed=1)
    torch.testing.assert_close(turned.W_dec @ turned.W_dec.T, sae.W_dec @ sae.W_dec.T, atol=1e-4, rtol=1e-4)
    around = (sae.b_dec.double() + (X.double() - sae.b_dec) @ q).float()  # b_dec + Q^T (x - b_dec), as rows
    torch.testing.assert_close(turned.encode(X), sae.encode(around), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(rotated(sae, seed=2).W_dec, turned.W_dec)


def test_rotation_can_keep_firing_rates() -> None:
    sae = random_dictionary("relu")
    spread = X * torch.linspace(0.1, 3, D_MODEL)  # far from isotropic: rates change under rotation
    before = firing_frequency(sae, spread)
    loose, matched = (firing_frequency(rotated(sae, 1, a), spread) for a in (None, spread))
    assert np.abs(loose - before).max() > 0.1
    np.testing.assert_allclose(matched, before, atol=1.5 / len(spread))


def test_neurons_are_a_dictionary() -> None:
    neurons = Neurons(D_MODEL)
    assert isinstance(neurons, Dictionary) and isinstance(random_dictionary("relu"), Dictionary)
    assert torch.equal(neurons.encode(X), X) and neurons.d_sae == neurons.d_model == D_MODEL


def test_shapes_that_do_not_fit_are_refused() -> None:
    sae = random_dictionary("relu")
    with pytest.raises(InputError, match="b_enc is"):
        SparseAutoencoder(sae.W_enc, sae.b_enc[:-1], sae.W_dec, sae.b_dec)
    with pytest.raises(InputError, match="topk needs it"):
        SparseAutoencoder(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, kind="topk")
