"""Quality numbers from visible arithmetic, their gates, and what a file says checked again."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.dictionaries.conftest import random_dictionary
from tests.dictionaries.helpers import D_MODEL, D_SAE

from homolog.dictionaries import (
    KINDS,
    Gates,
    Neurons,
    Planted,
    Quality,
    SparseAutoencoder,
    Tolerance,
    explained_variance,
    firing_frequency,
    measure_quality,
    pca,
    plant,
    recheck,
)
from homolog.dictionaries.coding import Coder
from homolog.dictionaries.quality import DENSITY_EDGES, density_histogram
from homolog.dictionaries.variance import bos_share, sink_share
from homolog.errors import InputError

X = torch.from_numpy(
    (np.random.default_rng(4).standard_normal((3000, D_MODEL)) * 2 + 5).astype(np.float32)
)


def signs() -> SparseAutoencoder:
    """Two dimensions, four features: both parts of each coordinate; reconstructs exactly."""
    directions = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    return SparseAutoencoder(directions.T.contiguous(), torch.zeros(4), directions, torch.zeros(2))


WIDE = Gates(l0_share_most=1.0, dense_share=1.0)
"""Gates for dictionaries of so few features that half of them fire on a token."""


def test_predicting_the_mean_scores_exactly_zero() -> None:
    mean = X.double().mean(0)
    assert explained_variance(X.double(), mean.expand(X.shape)) == 0.0
    assert explained_variance(X, X) == 1.0


def test_explained_variance_sums_over_dimensions_and_skips_masked_tokens() -> None:
    x = torch.tensor([[1.0, 10.0], [-1.0, -10.0], [1e6, 1e6]])
    x_hat = torch.tensor([[0.0, 10.0], [0.0, -10.0], [0.0, 0.0]])
    keep = torch.tensor([True, True, False])
    assert explained_variance(x, x_hat, keep) == pytest.approx(
        1 - 2 / 202
    )  # not the mean of 0 and 1
    assert math.isnan(explained_variance(torch.ones(3, 2), torch.ones(3, 2)))


def test_counts_and_losses() -> None:
    x = torch.tensor(
        [[2.0, 0.0], [3.0, 1.0], [1.0, 1.0], [2.0, 2.0]]
    )  # coordinates are never negative
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
    quality = measure_quality(signs(), x, spliced_loss=spliced_loss, loss_clean=2.0, gates=WIDE)
    assert quality.n_tokens == 4 and spliced_loss.calls == 1
    assert quality.explained_variance == 1.0
    assert quality.l0 == 7 / 4
    assert (
        quality.dead_share == 0.5 and quality.dense_share == 0.5
    )  # two never fire, two at 3 and 4 of 4 tokens
    assert quality.density_histogram == (2, *11 * [0], 2)
    assert quality.sink_share == 0 and math.isnan(quality.bos_share)
    assert quality.density_quantiles[0] == 0 and quality.density_quantiles[-1] == 1
    assert quality.loss_recovered == (6 - 3) / (6 - 2)
    assert quality.passed and quality.reason == "passed"


def test_gates_give_every_reason() -> None:
    gates = Gates.model_construct(  # above what settings allow, so that every gate is missed
        explained_variance=1.1,
        l0_least=5.0,
        l0_share_most=0.1,
        dead_share=0.1,
        dense_share=0.4,
        loss_recovered=0.9,
        sink_share=0.3,
    )
    x = X[:, :2].abs()  # two of the four features never fire
    x[0] = 1000.0
    quality = measure_quality(
        signs(), x, spliced_loss=lambda t: float(t(x[:1]).sum()), loss_clean=-9.0, gates=gates
    )
    reasons = quality.reason.split("; ")
    expected = [
        "explained variance 1.00 is below 1.1",
        "L0 2.00 is below 5",
        "L0 2.0 is above 10% of 4 features",
        "dead share 0.50 is above 0.1",
        "dense share 0.50 is above 0.4",
        "loss recovered",
        "sink share",
    ]
    assert len(reasons) == len(expected) and not quality.passed
    assert all(reason.startswith(start) for reason, start in zip(reasons, expected, strict=True))


def test_no_loss_to_recover_is_undefined_and_not_judged() -> None:
    quality = measure_quality(signs(), X[:, :2], spliced_loss=lambda t: 3.0, gates=WIDE)
    assert math.isnan(quality.loss_recovered) and quality.passed
    with pytest.raises(InputError, match="at least one kept token"):
        measure_quality(signs(), X[:, :2], keep=torch.zeros(len(X), dtype=torch.bool))


def test_the_histogram_counts_features_by_half_decades() -> None:
    assert len(DENSITY_EDGES) == 13 and DENSITY_EDGES[0] == 1e-6 and DENSITY_EDGES[-1] == 1
    assert DENSITY_EDGES[10] == 0.1 and DENSITY_EDGES[11] == pytest.approx(0.316, abs=1e-3)
    frequency = np.array([0, 0, 0, 1e-7, 2e-6, 0.05, 0.09999, 0.1, 0.3, 0.32, 0.5, 1.0])
    #        never, below 1e-6 and 1e-6 to 3.2e-6, ..., 0.03 to 0.1, 0.1 to 0.32, 0.32 to 1
    assert density_histogram(frequency) == (3, 2, *8 * [0], 2, 2, 3)


def test_sinks_are_tokens_of_ten_times_the_median_norm() -> None:
    x = torch.zeros(100, 2)
    x[:98, 0] = torch.tensor([1.0, -1.0]).repeat(49)
    x[98:, 1] = torch.tensor([20.0, -20.0])  # the mean is 0 and the median norm 1
    assert sink_share(x) == pytest.approx(2 * 20**2 / (98 + 2 * 20**2))
    assert sink_share(x.clamp(-10, 10)) == 0  # ten times the median is not more than that
    assert math.isnan(sink_share(torch.ones(5, 2)))
    moved = x + torch.tensor(
        [0.0, 30.0]
    )  # norms are those of raw residuals: about 30, then 50 and 10
    assert sink_share(moved) == 0


def test_bos_share_says_what_masking_removed() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 5.0], [0.0, -5.0]])
    keep = torch.tensor([True, True, False, False])
    assert bos_share(x, keep) == pytest.approx(50 / 52)
    assert math.isnan(bos_share(x, torch.ones(4, dtype=torch.bool)))
    quality = measure_quality(signs(), x, keep=keep, gates=WIDE)
    assert quality.bos_share == pytest.approx(50 / 52) and quality.n_tokens == 2
    assert quality.passed  # no gate judges what was taken out


def test_quality_survives_json_and_older_files() -> None:
    quality = measure_quality(signs(), X[:, :2])
    row = json.loads(json.dumps({k: None if v != v else v for k, v in quality.as_row().items()}))
    back = Quality.from_row(row)
    assert (
        repr(back) == repr(quality)
        and math.isnan(back.bos_share)
        and isinstance(back.density_histogram, tuple)
    )
    old = Quality.from_row(
        {k: v for k, v in row.items() if not k.startswith(("density_h", "dense", "sink", "bos"))}
    )
    assert old.l0 == quality.l0 and math.isnan(old.sink_share) and old.density_histogram == ()
    assert (
        math.isnan(Quality.from_row({"l0": 3.0}).explained_variance)
        and Quality.from_row({"l0": 3.0}).l0 == 3
    )
    names = set(quality.as_row()) - set(quality.as_table_row())
    assert names == {"density_quantiles", "density_histogram"}


@pytest.mark.parametrize("kind", list(KINDS))
def test_quality_equals_a_dense_computation(kind: str) -> None:
    sae = random_dictionary(kind)
    f = sae.encode(X)
    quality = measure_quality(sae, X)
    assert quality.l0 == pytest.approx(float((f > 0).sum()) / len(X), rel=1e-5)
    assert quality.explained_variance == pytest.approx(
        explained_variance(X, sae.decode(f)), abs=1e-5
    )
    frequency = (f > 0).double().mean(0).numpy()
    np.testing.assert_allclose(firing_frequency(sae, X), frequency, atol=2 / len(X))
    assert quality.dense_share == pytest.approx((frequency > 0.1).mean(), abs=0.05)
    assert sum(quality.density_histogram) == sae.d_sae
    torch.testing.assert_close(Coder(sae).reconstruct(X), sae.reconstruct(X), atol=1e-4, rtol=1e-4)
    assert Coder(sae).reconstruct(X[:0]).shape == (0, D_MODEL)


def test_many_features_are_never_dense_for_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    d_sae = 24_576
    directions = torch.nn.functional.normalize(
        torch.randn(d_sae, D_MODEL, generator=torch.Generator().manual_seed(0))
    )
    sae = SparseAutoencoder(
        directions.T.contiguous(), torch.full((d_sae,), -8.0), directions, X.mean(0)
    )
    blocks = []
    encode = Coder.encode
    monkeypatch.setattr(
        Coder, "encode", lambda coder, block: blocks.append(len(block)) or encode(coder, block)
    )

    def dense(*_: object) -> torch.Tensor:
        raise AssertionError("never the dense encoding")

    monkeypatch.setattr(SparseAutoencoder, "encode", dense)
    quality = measure_quality(sae, X)
    assert max(blocks) * d_sae * 4 <= 64 << 20 and sum(blocks) == len(X)
    assert 0 < quality.l0 < d_sae / 16


def test_what_does_not_reconstruct_is_refused() -> None:
    assert measure_quality(pca(X, 4), X).l0 == 4  # one half of each component
    with pytest.raises(InputError, match=r"dictionary is 'Neurons', but it must have decode"):
        Coder(Neurons(D_MODEL)).decode(X)


@pytest.mark.parametrize("kind", list(KINDS))
def test_sparse_encoding_equals_dense(kind: str) -> None:
    sae = random_dictionary(kind)
    dense = sae.encode(X).numpy()
    csr = sae.encode_sparse(X)
    np.testing.assert_allclose(csr.toarray(), dense, atol=1e-4)
    assert csr.has_canonical_format or csr.has_sorted_indices
    assert sae.encode_sparse(X[:0]).shape == (0, D_SAE)
    if kind == "topk":
        assert (np.diff(csr.indptr) <= 7).all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    sae = random_dictionary("relu")
    with pytest.raises(InputError, match="b_enc is"):
        SparseAutoencoder(sae.W_enc, sae.b_enc[:-1], sae.W_dec, sae.b_dec)
    with pytest.raises(InputError, match="topk needs it"):
        SparseAutoencoder(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, kind="topk")


def planted_dictionary() -> tuple[SparseAutoencoder, Planted]:
    """Planted activations and the dictionary of their directions, with its quality.

    The quality is that on the first half of them.
    """
    truth = plant(12_000, D_MODEL, 12, seed=0, mean_active=2.0)
    W_enc = torch.linalg.pinv(truth.directions)
    b_dec = truth.x.mean(0) - torch.from_numpy(truth.frequency).float() @ truth.directions
    sae = SparseAutoencoder(
        W_enc,
        torch.zeros(12),
        truth.directions,
        b_dec,
        kind="jumprelu",
        threshold=torch.full((12,), 0.25),
        metadata={"model": "m", "layer": 3},
    )
    quality = measure_quality(sae, truth.x[:6000])
    assert quality.explained_variance > 0.95 and 1.8 < quality.l0 < 2.2
    return replace(sae, metadata={**sae.metadata, "quality": quality.as_row()}), truth


def test_a_file_is_checked_against_its_quality() -> None:
    sae, truth = planted_dictionary()
    found = recheck(sae, truth.x[6000:])
    assert found.n_tokens == 6000 and not found.passed and found.reason == "not held to the gates"
    with pytest.raises(InputError, match=r"explained variance 0\.9\d+ within 1e-09, not 0\.9"):
        recheck(sae, truth.x[6000:], tolerance=Tolerance(explained_variance=1e-9))
    with pytest.raises(
        InputError, match="tokens to check on is 3999, but fewer than 4000 say too little"
    ):
        recheck(sae, truth.x[:3999])
    with pytest.raises(
        InputError, match="quality of the dictionary of m, layer 3 is None, but it must carry"
    ):
        recheck(replace(sae, metadata={"model": "m", "layer": 3}), truth.x)


@pytest.mark.parametrize("mislabelled", ["relu", "topk", "scale", "layer", "mean", "mask"])
def test_what_is_mislabelled_is_found(mislabelled: str) -> None:
    sae, truth = planted_dictionary()
    x, keep = truth.x[6000:].clone(), torch.ones(6000, dtype=torch.bool)
    if mislabelled == "relu":  # the threshold is lost: noise fires
        sae = replace(sae, kind="relu", threshold=None)
    elif mislabelled == "topk":
        sae = replace(sae, kind="topk", k=1, threshold=None)
    elif mislabelled == "scale":  # activations that were meant to be scaled
        x *= 3
    elif mislabelled == "layer":
        x = plant(6000, D_MODEL, 12, seed=1, mean_active=2.0).x
    elif mislabelled == "mean":
        x -= x.mean(0)
    else:
        x[::100] *= 50
        keep[::100] = False
        assert recheck(sae, x, keep=keep).n_tokens == 5940
    with pytest.raises(
        InputError,
        match=r"dictionary of m, layer 3 is '.*', but by its file these activations give "
        r"(explained variance|L0) .* Check that they are raw residuals",
    ):
        recheck(sae, x)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_no_number_is_named_and_never_measured(value: float) -> None:
    x = torch.randn(9000, D_MODEL, generator=torch.Generator().manual_seed(0))
    bad = x.clone()
    bad[8500, 3] = value
    for measure in (
        lambda: measure_quality(random_dictionary("relu"), bad),
        lambda: firing_frequency(Neurons(D_MODEL), bad),
        lambda: explained_variance(bad, x),
        lambda: explained_variance(x, bad),
    ):
        with pytest.raises(
            InputError, match=rf"x(_hat)? is {value}, but every value .* that of token 8500 is not"
        ):
            measure()
    masked = torch.ones(9000, dtype=torch.bool)
    masked[8500] = False  # what is left out may be anything
    assert measure_quality(random_dictionary("relu"), bad, keep=masked).n_tokens == 8999


@pytest.mark.parametrize(
    ("losses", "name"), [((math.nan, 2.0), "clean"), ((1.0, math.inf), "spliced")]
)
def test_a_loss_that_is_no_number_is_refused(losses: tuple[float, float], name: str) -> None:
    """NaN stands for what was not measured, so that of a broken model must not look like it."""
    x = torch.randn(50, D_MODEL, generator=torch.Generator().manual_seed(0))
    clean, spliced = losses
    with pytest.raises(
        InputError,
        match=f"{name} loss of zoo:transformer-s0, layer 2 is (nan|inf), but logits must be",
    ):
        measure_quality(
            random_dictionary("relu"), x, spliced_loss=lambda transform: spliced, loss_clean=clean
        )


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec", "threshold"])
def test_weights_that_are_no_numbers_make_no_dictionary(name: str) -> None:
    sae = random_dictionary("jumprelu")
    tensor = getattr(sae, name).clone()
    tensor.view(-1)[0] = math.nan
    with pytest.raises(InputError, match=name):
        replace(sae, **{name: tensor})
