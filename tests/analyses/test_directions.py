"""Direct effects of directions, against weights and real passes; nearest directions."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch

import homolog
from homolog.analyses.features.measure import nearest, promoted
from homolog.errors import InputError

DIRECTIONS = importlib.import_module("homolog.analyses.features.measure.directions")
NAMES = ("zoo:transformer-s0", "zoo:mamba-s0")


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> homolog.LanguageModel:
    return homolog.load(request.param)


def directions(n: int, d_model: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d_model, generator=torch.Generator().manual_seed(seed))


def by_weights(model: homolog.LanguageModel, d: torch.Tensor) -> torch.Tensor:
    """Effects in float64: LayerNorm centres over channels, both norms divide by the scale."""
    norm = (
        model.hf.gpt_neox.final_layer_norm
        if model.architecture == "gpt_neox"
        else model.hf.backbone.norm_f
    )
    d = d.double()
    if model.architecture == "gpt_neox":
        d = d - d.mean(1, keepdim=True)
    d = d / d.pow(2).mean(1, keepdim=True).sqrt()
    effect = (d * norm.weight.double()) @ model.hf.get_output_embeddings().weight.double().T
    return effect - effect.mean(1, keepdim=True)


def test_equal_to_the_weights(
    model: homolog.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    W_dec = directions(30, model.d_model)
    expected = by_weights(model, W_dec)
    n_rows = model.hf.get_output_embeddings().weight.shape[0]
    assert len(model.tokenizer) == n_rows  # type: ignore[arg-type]
    once = promoted(model, W_dec, k=7)
    for ids, effect, largest in (
        (once.promoted, once.promoted_effect, True),
        (once.suppressed, once.suppressed_effect, False),
    ):
        best = expected.topk(7, largest=largest)
        torch.testing.assert_close(effect.double(), best.values, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(expected.gather(1, ids), best.values, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(DIRECTIONS, "CHUNK_BYTES", 4 * 4 * n_rows)  # four features at once
    assert torch.equal(promoted(model, W_dec, k=7).promoted, once.promoted)


def test_neither_length_nor_a_bias_counts(model: homolog.LanguageModel) -> None:
    W_dec = directions(8, model.d_model)
    short = promoted(model, 1e-3 * W_dec, k=5)
    assert torch.equal(short.promoted, promoted(model, W_dec, k=5).promoted)
    opposite = promoted(model, -W_dec, k=5)
    assert torch.equal(
        opposite.promoted, short.suppressed
    )  # the effect is linear: no bias is left in it


@torch.inference_mode()
def test_a_real_pass_changes_its_logits_so(model: homolog.LanguageModel) -> None:
    tokens = torch.arange(5, 37)[None]
    h = model.residuals(tokens)[-1][0, -1].double()
    model.hf.double()
    try:
        centred = h - h.mean() if model.architecture == "gpt_neox" else h
        d = directions(1, model.d_model)[0].double()
        if model.architecture == "gpt_neox":
            d -= d.mean()
        d -= (d @ centred) / (centred @ centred) * centred  # across the residual: its scale stays
        small = 1e-4
        change = (model.logits((h + small * d)[None, None]) - model.logits(h[None, None]))[
            0, 0
        ] / small
        change *= centred.pow(2).mean().sqrt() / d.pow(2).mean().sqrt()
        change -= change.mean()
        found = promoted(model, d[None].float(), k=20)
    finally:
        model.hf.float()
    torch.testing.assert_close(
        found.promoted_effect[0].double(), change.topk(20).values, rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(
        change[found.suppressed[0]], change.topk(20, largest=False).values, rtol=1e-3, atol=1e-3
    )


def test_rows_of_zeros_and_rows_beyond_the_tokenizer() -> None:
    model = homolog.load("zoo:transformer-s0")
    W_dec = directions(3, model.d_model)
    W_dec[1] = 0
    found = promoted(model, W_dec, k=4)
    assert found.promoted[1].tolist() == found.suppressed[1].tolist() == [-1] * 4
    assert found.promoted_effect[1].isnan().all() and (found.promoted[[0, 2]] >= 0).all()
    before = promoted(model, W_dec, k=4)
    model.hf.resize_token_embeddings(len(model.tokenizer) + 64, mean_resizing=False)  # type: ignore[arg-type]
    with torch.no_grad():
        model.hf.get_output_embeddings().weight[-64:] = 100.0 * W_dec[:1]
    padded = promoted(model, W_dec, k=4)
    assert torch.equal(padded.promoted, before.promoted) and torch.equal(
        padded.suppressed, before.suppressed
    )


def test_nearest_by_hand() -> None:
    W_dec = torch.tensor([[1.0, 0], [0, 2.0], [3.0, 3.0], [0, 0], [-1.0, 0]])
    found = nearest(W_dec, k=3)
    half = math.sqrt(0.5)
    assert found.feature[2, :2].sort().values.tolist() == [0, 1]
    assert found.feature[0].tolist() == [2, 1, 4] and found.feature[4].tolist() == [1, 2, 0]
    torch.testing.assert_close(found.cosine[0], torch.tensor([half, 0, -1.0]))
    assert found.feature[3].tolist() == [-1, -1, -1] and found.cosine[3].isnan().all()
    assert nearest(W_dec, k=4).feature[0].tolist() == [
        2,
        1,
        4,
        -1,
    ]  # nothing is near a row of zeros


def test_nearest_equals_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    W_dec = directions(50, 8)
    unit = (W_dec / W_dec.norm(dim=1, keepdim=True)).double().numpy()
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    found = nearest(W_dec, k=6)
    np.testing.assert_array_equal(found.feature, np.argsort(-cosine, axis=1)[:, :6])
    np.testing.assert_allclose(found.cosine, -np.sort(-cosine, axis=1)[:, :6], atol=1e-6)
    monkeypatch.setattr(DIRECTIONS, "CHUNK_BYTES", 4 * 50 * 7)
    assert torch.equal(nearest(W_dec, k=6).feature, found.feature)


def test_errors() -> None:
    model = homolog.load("zoo:transformer-s0")
    with pytest.raises(InputError, match="has d_model 128"):
        promoted(model, directions(2, 64))
    with pytest.raises(InputError, match="k is 0"):
        promoted(model, directions(2, 128), k=0)
    with pytest.raises(InputError, match="there are 4 other features"):
        nearest(directions(5, 8), k=5)
