"""Matching by weights: planted copies, noise by arithmetic, chance, and a slow twin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from tests.reference import weights_matched_slowly as slow

from homolog.dictionaries import SparseAutoencoder, random_orthogonal, rotated
from homolog.errors import InputError
from homolog.matching import by_weights
from homolog.matching.by_weights import Turn, match_by_weights, procrustes

D_MODEL, D_SAE = 32, 96


def dictionary(seed: int, d_model: int = D_MODEL, d_sae: int = D_SAE, kind: str = "relu"):
    """Random directions of unequal lengths, encoders near their decoders."""
    rng = np.random.default_rng(seed)
    W_dec = rng.normal(size=(d_sae, d_model)) * rng.uniform(0.5, 2, (d_sae, 1))
    W_enc = (W_dec + 0.3 * rng.normal(size=W_dec.shape)).T / d_model
    threshold = rng.uniform(0.5, 2, d_sae) if kind == "jumprelu" else None
    return SparseAutoencoder(
        torch.from_numpy(W_enc).float(),
        torch.from_numpy(rng.normal(size=d_sae)).float(),
        torch.from_numpy(W_dec).float(),
        torch.zeros(d_model),
        kind=kind,
        threshold=None if threshold is None else torch.from_numpy(threshold).float(),
    )


def shuffled(sae: SparseAutoencoder, order: np.ndarray, gain: np.ndarray | float = 1.0):
    """Feature i is feature order[i] of `sae`, its value divided by gain[i]."""
    g = torch.as_tensor(np.broadcast_to(gain, len(order)).copy()).float()
    i = torch.from_numpy(order)
    threshold = None if sae.threshold is None else sae.threshold[i] * g
    return SparseAutoencoder(
        sae.W_enc[:, i] * g,
        sae.b_enc[i] * g,
        sae.W_dec[i] / g[:, None],
        sae.b_dec,
        kind=sae.kind,
        threshold=threshold,
    )


def turned(sae: SparseAutoencoder, weight: np.ndarray, scale: float) -> SparseAutoencoder:
    """The dictionary of the stream y = scale x weight that reads it as `sae` reads x."""
    W_enc = torch.from_numpy(weight.T @ sae.W_enc.double().numpy() / scale).float()
    W_dec = torch.from_numpy(scale * sae.W_dec.double().numpy() @ weight).float()
    return replace(sae, W_enc=W_enc, W_dec=W_dec, b_dec=torch.zeros(weight.shape[1]))


@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_a_permuted_dictionary_is_matched_whole_whatever_its_values_are_multiplied_by(
    kind: str,
) -> None:
    rng = np.random.default_rng(1)
    order, gain = rng.permutation(D_SAE), rng.uniform(0.1, 10, D_SAE)
    a = dictionary(0, kind=kind)
    found = match_by_weights(a, shuffled(a, order, gain))
    back = np.argsort(order)
    assert found.folding == ("threshold" if kind == "jumprelu" else "direction")
    assert np.array_equal(found.a_to_b.index[:, 0], back)
    assert np.array_equal(found.b_to_a.index[:, 0], order)
    assert np.array_equal(found.one_a, back) and np.array_equal(found.one_b, order)
    np.testing.assert_allclose(found.a_to_b.distance[:, 0], 0, atol=1e-12)
    np.testing.assert_allclose(found.a_to_b.cosine[:, 0], 1, atol=1e-6)
    assert (found.a_to_b.distance[:, 1] > 1e-3).all()  # a runner-up is another feature


@pytest.mark.parametrize("d_y", [D_MODEL, 48, 24])
@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_a_turned_dictionary_is_matched_after_procrustes_and_not_before(
    d_y: int, kind: str
) -> None:
    """y = 3 x Q + mean, of the same width, a wider and a narrower stream.

    Into a narrower one Q leads the directions of its rows alone, in which x then lies.
    """
    rng = np.random.default_rng(2)
    Q = random_orthogonal(max(D_MODEL, d_y), 5).numpy()[:D_MODEL, :d_y]
    x = rng.normal(size=(4000, D_MODEL)) * np.linspace(2, 0.5, D_MODEL) + 7
    a = dictionary(0, kind=kind)
    if d_y < D_MODEL:  # nothing of x and of a is lost
        x, inside = x @ Q @ Q.T, torch.from_numpy(Q @ Q.T).float()
        a = replace(a, W_enc=inside @ a.W_enc, W_dec=a.W_dec @ inside)
    order = rng.permutation(D_SAE)
    b = shuffled(turned(a, Q, 3.0), order)
    turn = procrustes(x, 3 * x @ Q - 5)
    np.testing.assert_allclose(turn.weight, Q, atol=1e-8)
    assert turn.scale == pytest.approx(3)
    found = match_by_weights(a, b, turn=turn)
    assert np.array_equal(found.b_to_a.index[:, 0], order)
    assert np.array_equal(found.one_b, order)
    np.testing.assert_allclose(found.b_to_a.distance[:, 0], 0, atol=1e-10)
    other_way = match_by_weights(b, a, turn=turn.back)
    assert np.array_equal(other_way.a_to_b.index[:, 0], order)
    if d_y == D_MODEL:  # without the map, no more than by chance
        assert (match_by_weights(a, b).b_to_a.index[:, 0] == order).mean() < 0.1


def test_noise_moves_distances_as_arithmetic_says() -> None:
    """Thresholds of 1 fold nothing: the distance of a copy is its mean squared noise, near s^2."""
    a = replace(dictionary(3, kind="jumprelu"), threshold=torch.ones(D_SAE))
    rng = np.random.default_rng(4)
    right = []
    for s in (0.01, 0.1, 1.0, 3.0):
        noise = [torch.from_numpy(s * rng.normal(size=w.shape)).float() for w in (a.W_enc, a.W_dec)]
        b = replace(a, W_enc=a.W_enc + noise[0], W_dec=a.W_dec + noise[1])
        squared = (noise[0].T.double() ** 2 + noise[1].double() ** 2).mean(1).numpy() / 2
        found = match_by_weights(a, b, k=D_SAE)
        own = found.a_to_b.index == np.arange(D_SAE)[:, None]
        np.testing.assert_allclose(found.a_to_b.distance[own], squared, rtol=1e-4)
        assert found.a_to_b.distance[own].mean() == pytest.approx(s**2, rel=0.05)
        right.append(float((found.a_to_b.index[:, 0] == np.arange(D_SAE)).mean()))
    assert right[0] == 1 and right == sorted(right, reverse=True) and right[-1] < 0.8


def test_unrelated_dictionaries_match_as_a_rotated_one_does() -> None:
    a, b = dictionary(5, 64, 1200), dictionary(6, 64, 1200)
    null = match_by_weights(a, rotated(b, 7), k=1).a_to_b.cosine[:, 0]
    cosine = match_by_weights(a, b, k=1).a_to_b.cosine[:, 0]
    share = float((cosine > np.quantile(null, 0.95)).mean())
    assert 0.03 < share < 0.07  # 5 %, within three standard errors of 1,200 features
    assert abs(cosine.mean() - null.mean()) < 0.01


@pytest.mark.parametrize("folding", ["direction", "norm", "threshold"])
@pytest.mark.parametrize("sizes", [(20, 20), (13, 31)])
def test_it_is_what_loops_and_scipy_find(
    folding: by_weights.Folding, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_weights, "BLOCK_BYTES", 4 * 7 * sizes[1])  # blocks of seven rows
    kind = "jumprelu" if folding == "threshold" else "relu"
    a, b = (dictionary(seed, 8, n, kind) for seed, n in zip((8, 9), sizes, strict=True))
    D, W = slow.distances(a, b, folding), slow.products(a, b, folding)
    found = match_by_weights(a, b, k=max(sizes), folding=folding, threads=2)
    for near, truth in ((found.a_to_b, D), (found.b_to_a, D.T)):
        n = truth.shape[1]
        assert np.array_equal(near.index[:, :n], np.argsort(truth, axis=1, kind="stable"))
        np.testing.assert_allclose(near.distance[:, :n], np.sort(truth, axis=1), rtol=1e-4)
    paired = np.flatnonzero(found.one_a >= 0)
    total = W[paired, found.one_a[paired]].sum()
    assert total == pytest.approx(slow.largest_total(W), rel=1e-6)
    np.testing.assert_allclose(found.distance_a[paired], D[paired, found.one_a[paired]], rtol=1e-4)
    few = match_by_weights(a, b, k=3, folding=folding, threads=1)
    assert np.array_equal(few.a_to_b.index, found.a_to_b.index[:, :3])
    assert np.array_equal(few.b_to_a.index, found.b_to_a.index[:, :3])


def test_over_permutations_partners_have_the_least_total_distance() -> None:
    a = dictionary(10, 16, 40)
    order = np.random.default_rng(11).permutation(40)
    b = shuffled(a, order)
    noise = torch.from_numpy(np.random.default_rng(12).normal(size=(40, 16))).float()
    b = replace(b, W_dec=b.W_dec + 0.5 * noise)
    D = slow.distances(a, b, "direction")
    found = match_by_weights(a, b, k=40)
    assert (found.one_a >= 0).all()
    rows, columns = linear_sum_assignment(D)
    assert D[np.arange(40), found.one_a].sum() == pytest.approx(D[rows, columns].sum(), rel=1e-6)


def test_silent_features_and_those_without_a_direction_have_no_partner() -> None:
    a = dictionary(13, kind="jumprelu")
    assert a.threshold is not None
    threshold, W_dec = a.threshold.clone(), a.W_dec.clone()
    threshold[3], W_dec[5] = torch.inf, 0.0
    broken = replace(a, threshold=threshold, W_dec=W_dec)
    found = match_by_weights(broken, a)
    for feature in (3, 5):
        assert (found.a_to_b.index[feature] == -1).all() and found.one_a[feature] == -1
        assert np.isnan(found.a_to_b.distance[feature]).all()
        assert not (found.b_to_a.index == feature).any()
    assert np.delete(found.a_to_b.index[:, 0] == np.arange(D_SAE), [3, 5]).all()
    threshold[3] = 0.0  # of one that begins at 0 no scale is known
    assert match_by_weights(replace(a, threshold=threshold), a).folding == "direction"


def test_mistakes_are_named() -> None:
    a, wide = dictionary(0), dictionary(1, 48)
    with pytest.raises(InputError, match=r"d_model of a and b.*\(32, 48\).*one space.*procrustes"):
        match_by_weights(a, wide)
    with pytest.raises(InputError, match=r"turn.*\(48, 32\).*\(32, 48\).*in this order"):
        match_by_weights(a, wide, turn=Turn(np.zeros((48, 32))))
    with pytest.raises(InputError, match=r"k.*0.*at least one partner.*Give 2"):
        match_by_weights(a, a, k=0)
    with pytest.raises(InputError, match=r"folding.*threshold.*both.*none of 0.*say direction"):
        match_by_weights(a, a, folding="threshold")
    x = np.random.default_rng(0).normal(size=(10, 3))
    with pytest.raises(InputError, match=r"rows of x and y.*\(10, 9\).*same token.*Mask both"):
        procrustes(x, x[:9])
    with pytest.raises(InputError, match=r"y.*norm 0 about its mean.*that vary.*more tokens"):
        procrustes(x, np.ones((10, 4)))
