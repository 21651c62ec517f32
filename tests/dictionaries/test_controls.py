"""Controls: their geometry, firing rates, and what they match of planted activations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.dictionaries.conftest import random_dictionary
from tests.dictionaries.helpers import D_MODEL, D_SAE

import homolog
from homolog.dictionaries import (
    KINDS,
    Dictionary,
    Neurons,
    SparseAutoencoder,
    firing_frequency,
    firing_like_trained,
    ica,
    measure_quality,
    pca,
    plant,
    random_directions,
    random_orthogonal,
    rotated,
)
from homolog.errors import InputError

X = torch.from_numpy(
    (np.random.default_rng(4).standard_normal((3000, D_MODEL)) * 2 + 5).astype(np.float32)
)
SPREAD = X * torch.linspace(0.1, 3, D_MODEL)  # far from isotropic: rates change under rotation
WITH_RATES = [kind for kind in KINDS if kind != "topk"]


def test_rotation_is_orthogonal_and_keeps_the_geometry() -> None:
    q = random_orthogonal(D_MODEL, seed=1)
    torch.testing.assert_close(q @ q.T, torch.eye(D_MODEL, dtype=torch.float64))
    sae = random_dictionary("relu")
    turned = rotated(sae, seed=1)
    torch.testing.assert_close(
        turned.W_dec @ turned.W_dec.T, sae.W_dec @ sae.W_dec.T, atol=1e-4, rtol=1e-4
    )
    around = (
        sae.b_dec.double() + (X.double() - sae.b_dec) @ q
    ).float()  # b_dec + Q^T (x - b_dec), as rows
    torch.testing.assert_close(turned.encode(X), sae.encode(around), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(rotated(sae, seed=2).W_dec, turned.W_dec)


@pytest.mark.parametrize("kind", WITH_RATES)
def test_rotation_can_keep_firing_rates(kind: str) -> None:
    sae = random_dictionary(kind)
    before = firing_frequency(sae, SPREAD)
    assert (before == 0).any() or kind == "relu"  # a feature that never fires keeps silent
    loose, matched = (firing_frequency(rotated(sae, 1, a), SPREAD) for a in (None, SPREAD))
    assert np.abs(loose - before).max() > 0.1
    np.testing.assert_allclose(matched, before, atol=1.5 / len(SPREAD))
    turned = rotated(sae, 1, SPREAD)
    assert turned.kind == kind and (turned.threshold is sae.threshold)
    if sae.threshold is not None:  # and with the thresholds the least value of an active feature
        f = turned.encode_sparse(SPREAD)
        assert bool((f.data > sae.threshold.numpy()[f.indices]).all())


def test_rotation_of_topk_keeps_the_number_of_features() -> None:
    sae = random_dictionary("topk")
    turned = rotated(sae, 1, SPREAD)
    assert torch.equal(turned.b_enc, sae.b_enc) and turned.k == sae.k == 7
    assert (np.diff(turned.encode_sparse(SPREAD).indptr) <= 7).all()


@pytest.mark.parametrize("kind", list(KINDS))
def test_random_directions_fire_as_often(kind: str) -> None:
    sae = random_dictionary(kind)
    control = random_directions(sae, 1, SPREAD)
    np.testing.assert_allclose(
        firing_frequency(control, SPREAD), firing_frequency(sae, SPREAD), atol=1.5 / len(SPREAD)
    )
    torch.testing.assert_close(control.W_dec.norm(dim=1), torch.ones(D_SAE))
    assert torch.equal(control.W_enc, control.W_dec.T)
    cosines = control.W_dec @ (sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)).T
    assert cosines.abs().mean() < 1.2 * np.sqrt(2 / np.pi / D_MODEL)  # that of unrelated directions
    assert control.kind == ("relu" if kind == "topk" else kind) and control.k is None
    assert torch.equal(random_directions(sae, 1, SPREAD).W_enc, control.W_enc)
    assert not torch.equal(random_directions(sae, 2, SPREAD).W_enc, control.W_enc)


@pytest.mark.parametrize("kind", list(KINDS))
def test_rehearsals_fire_like_trained_dictionaries(kind: str) -> None:
    rehearsed = firing_like_trained(random_dictionary(kind), X, l0=5.0, seed=3)
    frequency = np.sort(firing_frequency(rehearsed, X))[::-1]
    weight = (np.arange(D_SAE) + 8.0) ** -0.7
    expected = 5 * weight / weight.sum()  # nowhere above the limit of 0.7
    if kind == "topk":  # at most: the seven largest of these are left
        assert (np.diff(rehearsed.encode_sparse(X).indptr) <= 7).all() and frequency.sum() < 5
    else:
        np.testing.assert_allclose(frequency, expected, atol=1.5 / len(X))
        assert rehearsed.kind == kind


def test_a_feature_of_infinite_threshold_stays_silent() -> None:
    sae = random_dictionary("jumprelu")
    threshold = sae.threshold.clone()  # type: ignore[union-attr]
    threshold[3] = torch.inf
    for control in (
        rotated(replace(sae, threshold=threshold), 1, X),
        firing_like_trained(sae, X, 5.0, 1),
    ):
        assert bool(torch.isfinite(control.b_enc).all())
    assert firing_frequency(rotated(replace(sae, threshold=threshold), 1, X), X)[3] == 0


def test_a_control_does_not_carry_the_quality_of_its_original() -> None:
    sae = replace(random_dictionary("jumprelu"), metadata={"model": "m", "quality": {"l0": 3.0}})
    for control in (
        rotated(sae, 1),
        random_directions(sae, 1, X),
        firing_like_trained(sae, X, 5.0, 1),
    ):
        assert (
            "quality" not in control.metadata
            and control.metadata["model"] == "m"
            and control.metadata["control"]
        )
    with pytest.raises(
        InputError, match="activations is 1, but firing rates need at least two tokens"
    ):
        rotated(sae, 1, X[:1])


def encoded(dictionary: Dictionary, x: torch.Tensor) -> np.ndarray:
    return dictionary.encode(x).numpy()


def mppc(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over features of a of the largest correlation with a feature of b."""
    return float(homolog.max_pearson(a, b).a_to_b.r[:, 0].mean())


def two_models() -> tuple[torch.Tensor, SparseAutoencoder, torch.Tensor, SparseAutoencoder]:
    """The same 40 sparse features written by two models in unrelated directions of 64."""
    planted = plant(12_000, 64, 40, seed=0, mean_active=3.0, keep_active=True)
    rng = np.random.default_rng(9)
    directions = torch.from_numpy(rng.standard_normal((40, 64)).astype(np.float32))
    directions /= directions.norm(dim=1, keepdim=True)
    active = torch.from_numpy(planted.active)
    noise = torch.from_numpy(0.05 * rng.standard_normal((12_000, 64)).astype(np.float32))
    x_b = active @ directions + noise

    def reader(directions: torch.Tensor, b_dec: torch.Tensor) -> SparseAutoencoder:
        return SparseAutoencoder(
            torch.linalg.pinv(directions),
            torch.zeros(40),
            directions,
            b_dec,
            kind="jumprelu",
            threshold=torch.full((40,), 0.25),
        )

    b_dec = planted.x.mean(0) - active.mean(0) @ planted.directions
    return planted.x, reader(planted.directions, b_dec), x_b, reader(directions, torch.zeros(64))


def test_controls_match_less_than_the_truth() -> None:
    x_a, a, x_b, b = two_models()
    f = encoded(a, x_a)
    found = {
        "truth": b,
        "rotated": rotated(b, 1, x_b),
        "random": random_directions(b, 1, x_b),
        "pca": pca(x_b),
        "signed": pca(x_b, signed=True),
        "ica": ica(x_b, 40, max_iterations=1000),
        "coordinates": Neurons(64),
    }
    r = {}
    for name, dictionary in found.items():
        assert isinstance(dictionary, Dictionary)
        of_b = encoded(dictionary, x_b)
        assert of_b.shape == (len(x_b), dictionary.d_sae)
        r[name] = mppc(f, of_b)
    assert r["truth"] > 0.95
    assert max(r["rotated"], r["random"]) + 0.05 < r["pca"] < r["truth"] - 0.3
    assert r["signed"] < r["pca"] - 0.05  # what the negative halves match goes unseen
    assert (
        r["ica"] > 0.8
    )  # sparse sources in fewer directions than dimensions are what ICA recovers
    assert r["coordinates"] < r["pca"]


def test_the_identity_matches_raw_coordinates() -> None:
    x_a, _, x_b, _ = two_models()
    best = homolog.max_pearson(encoded(Neurons(64), x_a), encoded(Neurons(64), x_b))
    r = np.corrcoef(x_a.double().numpy().T, x_b.double().numpy().T)[:64, 64:]
    np.testing.assert_allclose(best.a_to_b.r[:, 0], r.max(axis=1), atol=1e-6)
    np.testing.assert_array_equal(best.a_to_b.index[:, 0], r.argmax(axis=1))


def test_neurons_are_a_dictionary() -> None:
    neurons = Neurons(D_MODEL)
    assert isinstance(neurons, Dictionary) and isinstance(random_dictionary("relu"), Dictionary)
    assert torch.equal(neurons.encode(X), X) and neurons.d_sae == neurons.d_model == D_MODEL


def test_random_directions_reconstruct_little() -> None:
    """The same truth seen by quality: unrelated directions explain less than the planted ones."""
    _, _, x_b, b = two_models()
    assert measure_quality(b, x_b).explained_variance > 0.9
    assert measure_quality(random_directions(b, 1, x_b), x_b).explained_variance < 0.3
