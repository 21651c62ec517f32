"""Sparse encoding: exact active sets and values, whatever precision, block and threads."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import sparse

from homolog.dictionaries import KINDS, SparseAutoencoder
from homolog.dictionaries.encoder import SparseEncoder
from homolog.errors import InputError

WITH_THRESHOLD = [name for name, kind in KINDS.items() if kind.form == "threshold"]
D_MODEL, D_SAE, N_TOKENS = 48, 700, 150
STEP = 2.0**-14  # of the grid on which all products and sums below lie


def grid(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Multiples of 2^-7 up to 4: ten bits, where bfloat16 has eight."""
    return torch.from_numpy(np.random.default_rng(seed).integers(-512, 513, shape) / 128).float()


def planted(
    k: int | None = None, share: float = 0.02, kind: str = "relu"
) -> tuple[SparseAutoencoder, torch.Tensor, np.ndarray]:
    """A dictionary, tokens and their exact pre-activations (float64).

    Many are a single step from their threshold or tie.

    Every fifth feature of a kind with thresholds has threshold 0.
    """
    x, W, b_dec = grid((N_TOKENS, D_MODEL), 0), grid((D_MODEL, D_SAE), 1), grid((D_MODEL,), 2)
    W[:, 300:350] = W[:, 350:400]  # twins: equal values in every token
    dots = (x - b_dec).double() @ W.double()
    feature = torch.arange(D_SAE)
    b_enc = (torch.quantile(-dots, share, dim=0) / STEP).round() * STEP
    token = dots.sort(dim=0, descending=True, stable=True).indices[
        feature % 5, feature
    ]  # one that is among its largest
    at_threshold = (
        -dots[token, feature] + (feature % 4 - 1) * STEP
    )  # there it is -1, 0, 1 or 2 steps above 0
    b_enc = torch.where(feature % 3 == 0, at_threshold, b_enc)
    threshold = (feature % 5) * 0.375 if kind in WITH_THRESHOLD else None
    b_enc = b_enc if threshold is None else b_enc + threshold
    b_enc[300:350] = b_enc[350:400]
    assert torch.equal(b_enc.float().double(), b_enc)
    kind = kind if k is None else "topk"
    sae = SparseAutoencoder(
        W,
        b_enc.float(),
        torch.zeros(D_SAE, D_MODEL),
        b_dec,
        kind=kind,
        k=k,
        threshold=threshold,  # type: ignore[arg-type]
    )
    return sae, x, (dots + b_enc).numpy()


def expected(pre: np.ndarray, k: int | None, threshold: torch.Tensor | None = None) -> np.ndarray:
    """Exact features: what exceeds its threshold (0), or the k largest of that.

    The lowest index comes first among equal ones.
    """
    f = np.where(pre > (0 if threshold is None else threshold.double().numpy()), pre, 0).astype(
        np.float32
    )
    if k is not None:
        order = np.argsort(-f, axis=1, kind="stable")
        np.put_along_axis(f, order[:, k:], 0, axis=1)
    return f


def off_grid(x: torch.Tensor) -> torch.Tensor:
    return x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))


def same_bytes(a: sparse.csr_array, b: sparse.csr_array) -> bool:
    names = ("indptr", "indices", "data")
    return (
        all(getattr(a, n).tobytes() == getattr(b, n).tobytes() for n in names)
        and a.shape == b.shape
    )


def by_torch(encoder: SparseEncoder, x: torch.Tensor) -> sparse.csr_array:
    """What a CUDA device does, on the CPU."""
    index, value, counts = encoder._by_torch(*encoder._inputs(x, 0, "x"))
    return sparse.csr_array(
        (value, index, np.concatenate([[0], np.cumsum(counts)])), shape=(len(x), encoder.d_sae)
    )


@pytest.mark.parametrize("k", [None, 1, 9, 30])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_active_features_and_values_are_exact(precision, k: int | None) -> None:
    sae, x, pre = planted(k)
    found = SparseEncoder(sae, precision).encode(x)
    np.testing.assert_array_equal(found.toarray(), expected(pre, k))
    np.testing.assert_array_equal(
        np.diff(found.indptr), (expected(pre, k) > 0).sum(1)
    )  # no zeros are stored
    assert (
        found.has_canonical_format and found.dtype == np.float32 and found.indices.dtype == np.int32
    )
    np.testing.assert_array_equal(
        by_torch(SparseEncoder(sae, precision), x).toarray(), found.toarray()
    )


@pytest.mark.parametrize("kind", WITH_THRESHOLD)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_features_start_above_their_thresholds(precision, kind: str) -> None:
    sae, x, pre = planted(kind=kind)
    assert sae.threshold is not None and (sae.threshold == 0).sum() == D_SAE // 5
    steps = (pre - sae.threshold.numpy()) / STEP
    for threshold in (0, 0.375, 1.5):
        near = steps[:, sae.threshold.numpy() == threshold]
        assert (near == 0).sum() > 5 and (near == 1).sum() > 5 and (near == -1).sum() > 5
    found = SparseEncoder(sae, precision).encode(x)
    assert 0.01 < found.nnz / pre.size < 0.04
    np.testing.assert_array_equal(found.toarray(), expected(pre, None, sae.threshold))
    np.testing.assert_array_equal(
        by_torch(SparseEncoder(sae, precision), x).toarray(), found.toarray()
    )
    np.testing.assert_array_equal(np.diff(found.indptr), (found.toarray() > 0).sum(1))
    np.testing.assert_array_equal(
        sae.encode(x.double()), expected(pre, None, sae.threshold)
    )  # dense, in float64
    assert sae.encode_sparse(x[:0], precision).shape == (0, D_SAE)


@pytest.mark.parametrize(
    "n_silent", [0, 300]
)  # without others, all three may be active: the product is taken
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_rounded_value_is_compared(precision, n_silent: int) -> None:
    """p is rounded to float32, whose steps above 1 are 2^-23, and then compared with 1."""
    above, half_a_step, more = 1 + 2.0**-30, 1 + 2.0**-24, 1 + 2.0**-24 + 2.0**-30
    x = torch.tensor([[1.0, 2.0**-12]])
    w = torch.tensor([[1.0, (value - 1) * 2.0**12] for value in (above, half_a_step, more)])
    W_enc = torch.cat([w, torch.zeros(n_silent, 2)]).T.contiguous()
    size = 3 + n_silent
    sae = SparseAutoencoder(
        W_enc,
        torch.zeros(size),
        torch.zeros(size, 2),
        torch.zeros(2),
        kind="jumprelu",
        threshold=torch.ones(size),
    )
    truth = [[0.0, 0.0, 1 + 2.0**-23] + n_silent * [0.0]]
    np.testing.assert_array_equal(SparseEncoder(sae, precision).encode(x).toarray(), truth)
    np.testing.assert_array_equal(by_torch(SparseEncoder(sae, precision), x).toarray(), truth)


def on_the_edge(share: float, height: float) -> tuple[SparseAutoencoder, torch.Tensor, np.ndarray]:
    """Off the grid: every threshold is the value of one token, or the number below that.

    height 0: biases leave `share` of the tokens active.  Else biases are so large that the token's
    p lies all but half-way between two steps of float32, and the last bits of x w decide.
    """
    rng = np.random.default_rng(7)
    x = torch.from_numpy(rng.standard_normal((N_TOKENS, D_MODEL))).float()
    W = torch.from_numpy(rng.standard_normal((D_MODEL, D_SAE)))
    feature = torch.arange(D_SAE)
    dots = x.double() @ W
    token = dots.sort(dim=0, descending=True).indices[int(share * N_TOKENS), feature]
    if height:
        half_a_step = float(np.spacing(np.float32(height))) / 2
        W *= half_a_step * (1 + 1.5e-7 * (-1.0) ** (feature // 2)) / dots[token, feature]
    W = W.float()
    dots = x.double() @ W.double()
    b_enc = torch.full((D_SAE,), height) if height else (1 - dots[token, feature]).float()
    pre = (dots + b_enc.double()).float()
    threshold = pre[token, feature] if not height else b_enc
    threshold = torch.where(
        feature % 2 == 0, threshold, torch.nextafter(threshold, torch.zeros(D_SAE))
    )
    sae = SparseAutoencoder(
        W,
        b_enc,
        torch.zeros(D_SAE, D_MODEL),
        torch.zeros(D_MODEL),
        kind="jumprelu",
        threshold=threshold,
    )
    return sae, x, expected(pre.double().numpy(), None, threshold)


@pytest.mark.parametrize(("share", "height"), [(0.02, 0.0), (0.5, 0.0), (0.3, 1000.0)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_last_bits_at_the_threshold_decide(precision, share: float, height: float) -> None:
    sae, x, truth = on_the_edge(share, height)
    assert sae.threshold is not None
    in_float32 = (x @ sae.W_enc + sae.b_enc > sae.threshold).numpy()
    assert (in_float32 != (truth > 0)).sum() > 10  # what a float32 product would get wrong
    for found in (
        SparseEncoder(sae, precision).encode(x),
        by_torch(SparseEncoder(sae, precision), x),
    ):
        np.testing.assert_array_equal(found.toarray() > 0, truth > 0)
        np.testing.assert_allclose(found.toarray(), truth, rtol=0 if share < 0.1 else 1e-4)


def test_an_infinite_threshold_is_never_exceeded() -> None:
    sae, x, pre = planted(kind="jumprelu")
    threshold = sae.threshold.clone()  # type: ignore[union-attr]
    threshold[::2] = torch.inf
    found = replace(sae, threshold=threshold).encode_sparse(x).toarray()
    np.testing.assert_array_equal(found, expected(pre, None, threshold))
    assert not found[:, ::2].any() and found[:, 1::2].any()


def test_the_planted_thresholds_are_out_of_reach_of_bfloat16() -> None:
    sae, x, pre = planted()
    half = (x - sae.b_dec).bfloat16() @ sae.W_enc.bfloat16() + sae.b_enc
    wrong = (half.float().numpy() > 0) != (pre > 0)
    assert wrong.sum() > 50  # so the test above shows more than rounding would
    assert (pre == 0).sum() > 40 and (pre == STEP).sum() > 40
    assert (pre > 0).mean() < 0.04  # far from where the product is taken as it is


@pytest.mark.parametrize(("k", "kind"), [(None, "relu"), (9, "topk"), (None, "jumprelu")])
def test_precision_blocks_and_threads_leave_no_trace(
    k, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, x, _ = planted(k, kind=kind)
    x = off_grid(x.repeat(20, 1))
    whole = SparseEncoder(sae, "float32").encode(x, threads=1)
    assert 3000 < whole.nnz < 0.05 * len(x) * D_SAE
    assert same_bytes(whole, SparseEncoder(sae, "bfloat16").encode(x, threads=1))
    assert same_bytes(whole, SparseEncoder(sae, "bfloat16").encode(x, threads=2))
    single = SparseEncoder(sae, "bfloat16")
    rows = [single.encode(part, threads=1) for part in x[:300].split(7)]
    assert same_bytes(whole[:300], sparse.csr_array(sparse.vstack(rows, format="csr")))
    monkeypatch.setattr("homolog.dictionaries.encoder._GATHERED", 1000)
    assert np.abs(by_torch(single, x) - whole).max() <= 1e-6


@pytest.mark.parametrize("height", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e12])
@pytest.mark.parametrize("outlier", [1.0, 3000.0])
def test_the_bound_holds_at_any_scale(scale: float, outlier: float, height: float) -> None:
    """height: of the thresholds, in units of the scale.

    Biases as much larger leave the same features active.
    """
    rng = np.random.default_rng(5)
    x = rng.standard_normal((200, D_MODEL)) * scale
    x[:, 3] *= outlier  # a dimension that carries all of the norm
    W = rng.standard_normal((D_MODEL, D_SAE)) / np.sqrt(D_MODEL)
    x32, W32 = torch.from_numpy(x).float(), torch.from_numpy(W).float()
    dots = x32.double() @ W32.double()
    threshold = torch.full((D_SAE,), height * scale)
    b_enc = (torch.quantile(-dots, 0.02, dim=0) + threshold).float()
    pre = (dots + b_enc.double()).numpy()
    sae = SparseAutoencoder(
        W32,
        b_enc,
        torch.zeros(D_SAE, D_MODEL),
        torch.zeros(D_MODEL),
        kind="jumprelu",
        threshold=threshold,
    )
    truth = np.where(pre.astype(np.float32) > threshold.numpy(), pre, 0)
    clear = np.abs(pre - threshold.numpy()) > 1e-14 * np.abs(pre).max()
    clear |= (
        height > 0
    )  # then a float64 sum's error is far below half a step of float32 at the threshold
    for precision in ("float32", "bfloat16"):
        found = SparseEncoder(sae, precision).encode(x32).toarray()
        np.testing.assert_array_equal((found > 0)[clear], (truth > 0)[clear])
        np.testing.assert_allclose(found, truth, rtol=2e-7, atol=1e-14 * np.abs(pre).max())


def test_values_are_rounded_once() -> None:
    sae, x, _ = planted()
    x = off_grid(x)
    found = sae.encode_sparse(x).tocoo()
    centred = (x - sae.b_dec).numpy()
    for t, i, value in list(zip(found.row, found.col, found.data, strict=True))[:50]:
        terms = zip(centred[t].tolist(), sae.W_enc[:, i].tolist(), strict=True)
        exact = sum((Fraction(a) * Fraction(b) for a, b in terms), Fraction(float(sae.b_enc[i])))
        assert value == np.float32(float(exact))


@pytest.mark.parametrize("kind", ["relu", *WITH_THRESHOLD])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_dense_dictionaries_take_the_product(
    precision, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, x, pre = planted(share=0.5, kind=kind)
    computed = []
    monkeypatch.setattr("homolog.dictionaries.screening.compute", lambda *a: computed.append(a))
    truth = expected(pre, None, sae.threshold)
    for found in (
        SparseEncoder(sae, precision).encode(x),
        by_torch(SparseEncoder(sae, precision), x),
    ):
        assert not computed and found.nnz > 0.3 * pre.size
        np.testing.assert_allclose(found.toarray(), truth, atol=1e-4)
        np.testing.assert_array_equal(
            found.toarray() > 0, truth > 0
        )  # also where a step from the threshold


def test_a_token_at_the_centre_has_the_biases_that_are_positive() -> None:
    sae, x, _ = planted()
    x[5] = sae.b_dec
    found = sae.encode_sparse(x, "bfloat16").toarray()
    np.testing.assert_array_equal(found[5], np.maximum(sae.b_enc.numpy(), 0))
    assert sae.encode_sparse(x[:0]).shape == (0, D_SAE)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_what_is_not_finite_is_named(value: float) -> None:
    sae, x, _ = planted()
    x = x.repeat(10, 1)
    x[1234, 7] = value
    with pytest.raises(
        InputError, match=r"residuals of m, layer 1 is 'not finite, or too large, at token 1234'"
    ):
        SparseEncoder(sae).encode(x, 2, "residuals of m, layer 1")


def test_half_precision_residuals_are_taken_as_they_are() -> None:
    sae, x, _ = planted()
    half = x.bfloat16()
    assert same_bytes(sae.encode_sparse(half), sae.encode_sparse(half.float()))


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device; above, the same runs on the CPU"
)
@pytest.mark.parametrize(("k", "kind"), [(None, "relu"), (9, "topk"), (None, "gated")])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_gives_the_same(precision, k: int | None, kind: str) -> None:
    sae, x, pre = planted(k, kind=kind)
    np.testing.assert_array_equal(
        sae.encode_sparse(x.cuda(), precision).toarray(), expected(pre, k, sae.threshold)
    )
