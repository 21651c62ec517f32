"""PCA and ICA as dictionaries: explained variance, halves, seeds, and a convergence that failed."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from homolog.dictionaries import (
    Components,
    Dictionary,
    explained_variance,
    ica,
    measure_quality,
    pca,
)
from homolog.dictionaries.coding import Autoencoder
from homolog.errors import InputError


def sources(
    n_tokens: int = 4000, n: int = 6, d_model: int = 12
) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Independent Laplace sources of standard deviations 6, 5, ..., 1, mixed.

    Into more dimensions than there are sources; rows.
    """
    rng = np.random.default_rng(0)
    s = rng.laplace(size=(n_tokens, n)) / np.sqrt(2) * np.arange(n, 0, -1)
    rows = rng.standard_normal((n, d_model))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return torch.from_numpy((3 + s @ rows).astype(np.float32)), s, rows


X, SOURCES, ROWS = sources()
NOISY = X + 0.3 * torch.randn(X.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("n", [1, 3, 6, 12])
def test_pca_explains_what_scikit_learn_says(n: int) -> None:
    expected = PCA(n).fit(NOISY.numpy()).explained_variance_ratio_.sum()
    found = pca(NOISY, n)
    assert isinstance(found, Dictionary) and isinstance(found, Autoencoder)
    assert found.d_sae == 2 * n and found.d_model == 12
    assert explained_variance(NOISY, found.reconstruct(NOISY)) == pytest.approx(expected, abs=1e-5)
    quality = measure_quality(found, NOISY)
    assert quality.explained_variance == pytest.approx(expected, abs=1e-5)
    assert quality.l0 == n  # one half of every component
    assert sum(quality.density_histogram) == 2 * n


def test_the_halves_are_positive_and_their_difference_is_the_component() -> None:
    halves, signed = pca(NOISY, 4), pca(NOISY, 4, signed=True)
    f, s = halves.encode(NOISY), signed.encode(NOISY)
    assert signed.d_sae == 4 and f.shape == (len(NOISY), 8) and bool((f >= 0).all())
    assert torch.equal(f[:, :4] - f[:, 4:], s)
    assert torch.equal(f, torch.cat([s.clamp(min=0), (-s).clamp(min=0)], dim=1))
    torch.testing.assert_close(halves.decode(f), signed.decode(s))
    by_hand = (NOISY.double() - NOISY.double().mean(0)) @ halves.encoder.double().T
    torch.testing.assert_close(s, by_hand.float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        s.var(0).sort(descending=True).values, s.var(0)
    )  # most variance first
    torch.testing.assert_close(halves.encoder @ halves.encoder.T, torch.eye(4), atol=1e-5, rtol=0)


def test_ica_recovers_independent_sources() -> None:
    found = ica(X, 6, seed=3, signed=True)
    assert (
        found.metadata["converged"]
        and found.metadata["seed"] == 3
        and found.metadata["control"] == "ica"
    )
    s = found.encode(X).numpy()
    r = np.abs(np.corrcoef(SOURCES.T, s.T)[:6, 6:])
    np.testing.assert_array_equal(r.argmax(axis=1), np.arange(6))  # in order of their variances
    assert r.max(axis=1).min() > 0.99
    cosines = np.abs(np.sum(found.decoder.numpy() * ROWS, axis=1))
    assert cosines.min() > 0.98
    torch.testing.assert_close(found.decoder.norm(dim=1), torch.ones(6))
    np.testing.assert_allclose(
        s.std(axis=0), np.arange(6, 0, -1), rtol=0.1
    )  # a value is the length that it adds
    assert explained_variance(X, found.reconstruct(X)) == pytest.approx(1, abs=1e-5)


def test_ica_explains_what_as_many_principal_components_do() -> None:
    a, b = (
        explained_variance(NOISY, control.reconstruct(NOISY))
        for control in (ica(NOISY, 4), pca(NOISY, 4))
    )
    assert a == pytest.approx(b, abs=1e-5)


def test_a_seed_gives_the_same_components() -> None:
    first, again, other = (ica(NOISY, 4, seed=seed) for seed in (0, 0, 1))
    for name in ("encoder", "decoder", "mean"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.encoder, other.encoder)
    assert torch.equal(pca(NOISY, 4).encoder, pca(NOISY, 4).encoder)


def test_what_did_not_converge_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "homolog"):
        found = ica(
            torch.randn(300, 12, generator=torch.Generator().manual_seed(0)), max_iterations=2
        )
    assert found.metadata["converged"] is False and found.metadata["n_iterations"] == 2
    assert (
        "ICA with 12 components has not converged in 2 iterations (tolerance 0.0001): they depend "
        "on the seed." in (caplog.text)
    )


@pytest.mark.parametrize("control", [pca, ica])
def test_what_cannot_be_is_refused(control) -> None:
    with pytest.raises(
        InputError, match="n_components is 13, but 4000 tokens of 12 dimensions allow 1 to 12"
    ):
        control(X, 13)
    with pytest.raises(InputError, match="n_components is 0, but 4000 tokens"):
        control(X, 0)
    broken = X.clone()
    broken[7, 3] = torch.nan
    with pytest.raises(InputError, match="x is 'not finite', but components need finite numbers"):
        control(broken, 2)


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(
        InputError,
        match=r'control is \'PCA\', .* scikit-learn .* pip install "homolog\[controls\]"',
    ):
        pca(X, 2)


def test_components_can_be_made_by_hand() -> None:
    axes = torch.eye(2, 3)
    found = Components(axes, axes, torch.tensor([1.0, 0.0, 0.0]))
    f = found.encode(torch.tensor([[3.0, -4.0, 9.0]]))
    assert f.tolist() == [[2.0, 0.0, 0.0, 4.0]]
    assert found.decode(f).tolist() == [[3.0, -4.0, 0.0]]  # the third dimension is in no component
