"""CKA, SVCCA and RSA of spaces, against their definitions, scipy, planted truth, invariances."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import scipy.stats
import torch

from homolog.errors import InputError
from homolog.matching import spaces
from homolog.matching.spaces import SpaceMoments, decoder_similarity


def cka_by_kernels(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), with kernels of all token pairs, centred."""
    n = len(x)
    centring = np.eye(n) - np.ones((n, n)) / n
    k, l_ = centring @ (x @ x.T) @ centring, centring @ (y @ y.T) @ centring
    return float(np.trace(k @ l_) / np.sqrt(np.trace(k @ k) * np.trace(l_ @ l_)))


def svcca_by_angles(x: np.ndarray, y: np.ndarray) -> tuple[float, int, int]:
    """SVCCA from the angles between the column spaces (Bjoerck and Golub), and what was kept."""
    kept = []
    for space in (np.float64(x), np.float64(y)):
        left, length, _ = np.linalg.svd(space - space.mean(0), full_matrices=False)
        share = np.cumsum(length**2) / np.sum(length**2)
        kept.append(left[:, : np.searchsorted(share, 0.99) + 1])
    return (
        float(np.cos(scipy.linalg.subspace_angles(*kept)).mean()),
        kept[0].shape[1],
        kept[1].shape[1],
    )


def rsa_by_scipy(x: np.ndarray, y: np.ndarray) -> float:
    distances = [scipy.spatial.distance.pdist(space, metric="cosine").round(7) for space in (x, y)]
    return float(scipy.stats.spearmanr(*distances).statistic)


def layers(generator: np.random.Generator, n: int, widths: list[int]) -> list[np.ndarray]:
    """Spaces that share their causes, with skewed variances and means far from 0."""
    cause = generator.standard_normal((n, 6))
    return [
        (cause @ generator.standard_normal((6, d)) + generator.standard_normal((n, d)))
        * 0.7 ** np.arange(d)
        + 30
        for d in widths
    ]


def measured(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    moments = SpaceMoments([x.shape[1]], [y.shape[1]])
    moments.add([x], [y])
    found = moments.similarity()
    return float(found.cka[0, 0]), float(found.svcca[0, 0])


def test_all_layer_pairs_equal_the_definitions_on_raw_data():
    drawn = layers(np.random.default_rng(0), 400, [5, 12, 9, 3, 20])
    a, b = drawn[:2], drawn[2:]
    moments = SpaceMoments([5, 12], [9, 3, 20])
    moments.add(a, b)
    found = moments.similarity()
    assert found.cka.shape == found.svcca.shape == (2, 3)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            svcca, kept_a, kept_b = svcca_by_angles(x, y)
            assert found.cka[i, j] == pytest.approx(cka_by_kernels(x, y), abs=1e-10)
            assert found.svcca[i, j] == pytest.approx(svcca, abs=1e-9)
            assert (found.kept_a[i], found.kept_b[j]) == (kept_a, kept_b)
    assert found.kept_a[1] < 12 and found.kept_b[2] < 20  # the skewed tails were left out


def test_planted_canonical_correlations():
    # Orthonormal columns u, v, centred; y_k = r_k u_k + sqrt(1 - r_k^2) v_k has the canonical
    # correlations r_k = 0.9, 0.6, 0.1 with u, and CKA (0.81 + 0.36 + 0.01) / 3, as all scatter
    # matrices are the identity.
    raw = np.random.default_rng(1).standard_normal((300, 6))
    q = np.linalg.qr(raw - raw.mean(0))[0]
    r = np.array([0.9, 0.6, 0.1])
    cka, svcca = measured(q[:, :3], q[:, :3] * r + q[:, 3:] * np.sqrt(1 - r**2))
    assert cka == pytest.approx((0.81 + 0.36 + 0.01) / 3, abs=1e-12)
    assert svcca == pytest.approx((0.9 + 0.6 + 0.1) / 3, abs=1e-12)


def test_four_tokens_by_hand():
    # x = (-1, 1) over tokens 0 0 1 1, y over tokens 0 1 0 1 and x itself: Pearson 0 and 1. One
    # channel x against two channels (x, y): S_xy = (4, 0), S_xx = 4, S_yy = 4 I: CKA = 16 / (4 * 4
    # sqrt(2)).
    x, y = np.array([[-1.0], [-1], [1], [1]]), np.array([[-1.0], [1], [-1], [1]])
    assert measured(x, np.hstack([x, y]))[0] == pytest.approx(1 / np.sqrt(2), abs=1e-14)
    assert measured(x, y)[0] == pytest.approx(0, abs=1e-14)


def test_invariances():
    generator = np.random.default_rng(2)
    x, noise = generator.standard_normal((500, 6)), generator.standard_normal((500, 8))
    y = noise + 0.5 * x @ generator.standard_normal((6, 8))
    cka, svcca = measured(x, y)
    rotation = np.linalg.qr(generator.standard_normal((8, 8)))[0]
    np.testing.assert_allclose(measured(x, 0.01 * y @ rotation + 5), (cka, svcca), atol=1e-10)
    np.testing.assert_allclose(measured(y, x), (cka, svcca), atol=1e-10)
    np.testing.assert_allclose(measured(y, -2 * y @ rotation + 1), (1, 1), atol=1e-10)
    affine = rotation * np.linspace(1, 2, 8)  # such that all directions are still kept
    changed = measured(x, y @ affine - 7)
    # canonical correlations do not see an invertible map,
    assert changed[1] == pytest.approx(svcca, abs=1e-9)
    assert abs(changed[0] - cka) > 1e-3  # CKA does


@pytest.mark.parametrize("block", [7, 100])
def test_shards_merged_equal_one_pass(block, monkeypatch):
    monkeypatch.setattr(spaces, "BLOCK", block)
    drawn = layers(np.random.default_rng(3), 203, [4, 7, 6])
    a, b = drawn[:2], drawn[2:]
    once = SpaceMoments([4, 7], [6])
    once.add(a, b)
    merged = SpaceMoments([4, 7], [6])
    for part in (slice(0, 1), slice(1, 1), slice(1, 90), slice(90, 203)):
        shard = SpaceMoments([4, 7], [6])
        shard.add([x[part] for x in a], [y[part] for y in b])
        merged.merge(SpaceMoments.from_arrays(shard.arrays()))
    assert once.n_tokens == merged.n_tokens == 203
    for name, expected in once.arrays().items():
        np.testing.assert_allclose(merged.arrays()[name], expected, rtol=1e-11, atol=1e-11)
    assert once.similarity().cka[1, 0] == pytest.approx(cka_by_kernels(a[1], b[0]), abs=1e-10)
    np.testing.assert_allclose(merged.similarity().svcca, once.similarity().svcca, atol=1e-11)


def test_sums_are_exact_scatter_matrices_whatever_the_kind_of_input():
    generator = np.random.default_rng(4)
    x = generator.integers(-8, 8, (64, 3)).astype(np.float32)  # exact in bfloat16
    y = generator.integers(-8, 8, (64, 2)).astype(np.float32)
    x[:, 0] -= x[:, 0].mean()  # multiples of 1/64
    expected = (x - x.mean(0)).astype(np.float64).T @ (y - y.mean(0)).astype(np.float64)
    y.setflags(write=False)
    for kind in (
        np.asarray,
        torch.from_numpy,
        lambda z: torch.from_numpy(z).double(),
        np.asfortranarray,
    ):
        moments = SpaceMoments([3], [2])
        moments.add([kind(x)], [torch.from_numpy(y.copy()).bfloat16()])
        np.testing.assert_allclose(moments.arrays()["scatter.0.1"], expected, atol=1e-10)
        moments.add([kind(x)], [y])  # read-only
        np.testing.assert_allclose(moments.arrays()["scatter.0.1"], 2 * expected, atol=1e-10)


def test_a_mean_a_million_times_the_spread_loses_nothing():
    x, y = layers(np.random.default_rng(5), 300, [4, 5])
    np.testing.assert_allclose(measured(x + 1e7, y), measured(x, y), atol=1e-7)


def test_the_bytes_do_not_depend_on_threads():
    generator = np.random.default_rng(6)
    widths_a, widths_b = [96, 64], [80, 128]
    a, b = layers(generator, 3000, widths_a), layers(generator, 3000, widths_b)
    before, found = torch.get_num_threads(), []
    try:
        for threads, outside in ((1, 1), (3, 2), (None, 2)):
            torch.set_num_threads(outside)
            moments = SpaceMoments(widths_a, widths_b, threads=threads)
            moments.add(a, b)
            assert torch.get_num_threads() == outside
            decoders = decoder_similarity(a[0][:600], b[1][:600])
            result = moments.similarity()
            found.append((moments.arrays(), result.cka.tobytes(), result.svcca.tobytes(), decoders))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(np.array_equal(other[0][name], sums) for name, sums in found[0][0].items())
        assert other[1:] == found[0][1:]


def test_chance_is_the_mean_over_all_shuffles_of_the_tokens():
    # All 7! orders of 7 tokens; 7 = 2 (2 + 1) + 1 is where SVCCA begins.
    x, y = (
        np.random.default_rng(seed).standard_normal((7, width)) for seed, width in ((6, 2), (7, 1))
    )
    moments = SpaceMoments([2], [1])
    moments.add([x], [y])
    found = moments.similarity()
    assert (found.kept_a[0], found.kept_b[0]) == (2, 1)
    x, y = x - x.mean(0), (y - y.mean(0))[np.array(list(itertools.permutations(range(7))))]
    cka = np.sum((x.T @ y) ** 2, axis=(1, 2)) / (
        np.linalg.norm(x.T @ x) * np.linalg.norm(y[0]) ** 2
    )
    assert found.cka_chance[0, 0] == pytest.approx(cka.mean(), abs=1e-12)
    correlation = np.linalg.norm(np.linalg.qr(x)[0].T @ y, axis=1) / np.linalg.norm(y[0])
    assert found.svcca[0, 0] == pytest.approx(correlation[0, 0], abs=1e-12)
    assert found.svcca_chance[0, 0] == pytest.approx(np.sqrt(np.mean(correlation**2)), abs=1e-12)
    assert correlation.mean() < found.svcca_chance[0, 0]


def test_undefined_is_nan():
    generator = np.random.default_rng(8)
    x, y = generator.standard_normal((41, 5)), generator.standard_normal((41, 5))
    constant = np.full((41, 2), 0.1)  # whose sum over 30 tokens is rounded
    moments = SpaceMoments([5, 2], [5])
    moments.add([x[:30], constant[:30]], [y[:30]])
    moments.add([x[30:], constant[30:]], [y[30:]])
    found = moments.similarity()
    assert np.isfinite(
        [found.cka[0, 0], found.svcca[0, 0], found.cka_chance[0, 0], found.svcca_chance[0, 0]]
    ).all()
    assert found.kept_a.tolist() == [5, 0]
    for table in (found.cka, found.svcca, found.cka_chance, found.svcca_chance):
        assert np.isnan(table[1, 0])
    # 2 (5 + 5) + 1 = 21 tokens are enough for SVCCA, 20 are not; CKA is defined all the same.
    assert np.isfinite(measured(x[:21], y[:21])).all()
    assert np.isnan(measured(x[:20], y[:20])).tolist() == [False, True]
    for n in (0, 1):
        moments = SpaceMoments([5], [5])
        moments.add([x[:n]], [y[:n]])
        assert np.isnan([moments.similarity().cka, moments.similarity().svcca]).all()


def test_errors_say_what_to_give():
    x, y = np.zeros((4, 3)), np.zeros((4, 2))
    moments = SpaceMoments([3, 3], [2])
    with pytest.raises(
        InputError, match=r"widths_b is \(\), but each model needs at least one layer"
    ):
        SpaceMoments([3], [])
    with pytest.raises(
        InputError, match="layers of residuals_a is 1, but moments were opened for 2 layers"
    ):
        moments.add([x], [y])
    with pytest.raises(
        InputError, match=r"shape of residuals_a\[1\] is \(4, 2\), but it needs the shape \(4, 3\)"
    ):
        moments.add([x, y], [y])
    with pytest.raises(
        InputError, match=r"shape of residuals_b\[0\] is \(3, 2\), but it needs the shape \(4, 2\)"
    ):
        moments.add([x, x], [y[:3]])
    for value in (np.nan, np.inf):
        bad = torch.zeros(4, 2)
        bad[2, 1] = value
        for broken in (bad, bad.numpy()):
            with pytest.raises(
                InputError, match=rf"residuals_b\[0\], row 2, channel 1 is {value}, but moments"
            ):
                moments.add([x, x], [broken])
    assert moments.n_tokens == 0 and not moments.arrays()["scatter.0.2"].any()  # nothing was taken
    with pytest.raises(
        InputError, match=r"widths is \(\(3,\), \(2,\)\), but moments are merged with"
    ):
        moments.merge(SpaceMoments([3], [2]))
    arrays = moments.arrays()
    del arrays["scatter.1.2"]
    with pytest.raises(
        InputError, match=r"scatter\.1\.2 is 'missing', but stored moments need .* shape \(3, 2\)"
    ):
        SpaceMoments.from_arrays(arrays)
    with pytest.raises(InputError, match=r"mean\.0 is \(2,\), but stored moments need"):
        SpaceMoments.from_arrays(moments.arrays() | {"mean.0": np.zeros(2)})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_sums_on_a_gpu_equal_those_on_the_processor():
    generator = np.random.default_rng(9)
    a, b = layers(generator, 5000, [64, 32]), layers(generator, 5000, [48])
    found = []
    for device in ("cpu", "cuda"):
        moments = SpaceMoments([64, 32], [48], device=device)
        moments.add([torch.from_numpy(x).to(device) for x in a], b)
        found.append(moments.similarity())
    np.testing.assert_allclose(found[0].cka, found[1].cka, atol=1e-10)
    np.testing.assert_allclose(found[0].svcca, found[1].svcca, atol=1e-9)


def decoders(
    generator: np.random.Generator, n: int, d_a: int, d_b: int, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Directions of B that are those of A under a linear map, with noise."""
    a = generator.standard_normal((n, d_a))
    b = a @ generator.standard_normal((d_a, d_b)) / np.sqrt(
        d_a
    ) + noise * generator.standard_normal((n, d_b))
    return a.astype(np.float32), b.astype(np.float32)


def test_decoders_equal_scipy():
    a, b = decoders(np.random.default_rng(10), 150, 8, 12, noise=0.5)
    found = decoder_similarity(a, torch.from_numpy(b))
    assert found.n_pairs == 150
    assert found.rsa == pytest.approx(rsa_by_scipy(a, b), abs=1e-6)
    assert found.svcca == pytest.approx(svcca_by_angles(a, b)[0], abs=1e-9)


def test_directions_that_are_rotated_and_scaled_copies_are_alike_and_shuffled_ones_are_not():
    generator = np.random.default_rng(12)
    a = generator.standard_normal((400, 10)) @ generator.standard_normal((10, 10))
    rotation = np.linalg.qr(generator.standard_normal((10, 10)))[0]
    found = decoder_similarity(a, a @ rotation * generator.uniform(0.5, 2, (400, 1)))
    assert found.rsa == pytest.approx(1, abs=1e-6)  # cosines see no rotation and no length
    rotated = decoder_similarity(a, 3 * a @ rotation + 1)
    assert rotated.svcca == pytest.approx(1, abs=1e-9)
    shuffled = decoder_similarity(a, (a @ rotation)[generator.permutation(400)])
    assert abs(shuffled.rsa) < 0.05
    assert shuffled.svcca < 0.2  # sqrt(10 / 399) = 0.16 bounds its mean


def test_rsa_takes_the_first_pairs_svcca_all(monkeypatch):
    monkeypatch.setattr(spaces, "RSA_PAIRS", 50)
    a, b = decoders(np.random.default_rng(13), 120, 5, 5, noise=1.0)
    found = decoder_similarity(a, b)
    assert found.rsa == pytest.approx(rsa_by_scipy(a[:50], b[:50]), abs=1e-6)
    assert found.rsa != pytest.approx(rsa_by_scipy(a, b), abs=1e-3)
    assert found.svcca == pytest.approx(svcca_by_angles(a, b)[0], abs=1e-9)


def test_equal_directions_are_ties():
    # Cosines among 3 orthogonal directions given twice: 1 for the 3 twins, 0 for the other 12 of 15
    # pairs.
    q = np.linalg.qr(np.random.default_rng(14).standard_normal((7, 7)))[0]
    a, b = np.vstack([q[:3], q[:3]]), np.vstack([q[3:6], q[3:6]])
    assert decoder_similarity(a, b).rsa == pytest.approx(1, abs=1e-12)
    # With B's twins elsewhere (1-2, 4-5, 0-3 against 0-3, 1-4, 2-5: one in common), the two
    # indicators have Pearson (1 / 15 - 1 / 25) / (1 / 5 * 4 / 5) = 1 / 6.
    b = q[[3, 4, 4, 3, 5, 5]]
    assert decoder_similarity(a, b).rsa == pytest.approx(1 / 6, abs=1e-12)


def test_too_few_pairs_are_undefined():
    a, b = np.random.default_rng(15).standard_normal((2, 41, 5))
    for n in (0, 1, 2):
        found = decoder_similarity(a[:n], b[:n])
        assert np.isnan([found.rsa, found.svcca]).all() and found.n_pairs == n
    found = decoder_similarity(a[:20], b[:20])
    assert np.isfinite(found.rsa) and np.isnan(found.svcca)
    found = decoder_similarity(a[:21], b[:21])  # 2 (5 + 5) + 1
    assert np.isfinite([found.rsa, found.svcca]).all()
    same = decoder_similarity(np.ones((30, 2)), b[:30])
    assert np.isnan([same.rsa, same.svcca]).all()


def test_errors_of_decoders():
    a, b = np.ones((5, 3)), np.ones((5, 2))
    with pytest.raises(
        InputError,
        match=r"shape of directions_b is \(4, 2\), but it needs the shape \(5, d_model\)",
    ):
        decoder_similarity(a, b[:4])
    b[3] = 0
    with pytest.raises(
        InputError, match=r"directions_b, row 3 is 0\.0, but a direction of length 0 has no cosine"
    ):
        decoder_similarity(a, b)
