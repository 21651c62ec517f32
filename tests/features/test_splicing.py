"""Losses of a model with a layer's residuals replaced, against hooks on the unmodified module."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.features.helpers import stream
from tests.models.helpers import tiny

import homolog
from homolog.analyses.causal.forward import final_stream, streams_of
from homolog.corpus import TokenWindows
from homolog.dictionaries import Gates, SparseAutoencoder
from homolog.features import splicing
from homolog.features.splicing import clean_loss, full_residuals, measure_on_text, spliced_loss
from homolog.models import Add, Replace, Site

BLOCKS = {"zoo:transformer-s0": "gpt_neox.layers", "zoo:mamba-s0": "backbone.layers"}


@pytest.fixture(scope="module")
def windows() -> TokenWindows:
    return stream(10, seed=4)


def hooked_loss(
    model: homolog.LanguageModel, windows: TokenWindows, layer: int, transform: Callable
) -> float:
    """All windows at once, a hook replacing the block's output where the token is not special."""
    mask, tokens = torch.from_numpy(windows.mask), torch.from_numpy(windows.tokens).long()

    def replace(module, inputs, output):
        h = (output[0] if isinstance(output, tuple) else output).clone()
        h[mask] = transform(h[mask])
        return (h, *output[1:]) if isinstance(output, tuple) else h

    block = model.hf.get_submodule(f"{BLOCKS[model.name]}.{layer}")
    handle = block.register_forward_hook(replace)
    try:
        with torch.no_grad():
            logits = model.hf(tokens).logits
    finally:
        handle.remove()
    log_p = logits[:, :-1].double().log_softmax(-1)
    losses = -log_p.gather(-1, tokens[:, 1:, None])[..., 0]
    return float(losses[mask[:, 1:]].mean())


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("layer", [0, 3])
def test_losses_are_those_of_hooks_on_the_module(
    name: str, layer: int, windows, monkeypatch
) -> None:
    model = homolog.load(name)
    monkeypatch.setattr(splicing, "LOSS_TOKENS", 4 * windows.context)  # several passes
    residuals = full_residuals(model, windows, [3, 0])[layer]
    assert residuals.shape == (10, 32, 128)
    for transform in (
        lambda r: r,
        lambda r: 0.5 * r,
        lambda r: r.mean(1, keepdim=True).expand_as(r),
    ):
        loss = spliced_loss(model, windows, residuals, layer, transform)
        assert loss == pytest.approx(hooked_loss(model, windows, layer, transform), abs=1e-4)
    assert clean_loss(model, windows) == pytest.approx(
        hooked_loss(model, windows, 0, lambda r: r), abs=1e-4
    )


def test_quality_on_text_has_the_losses_of_the_reconstruction(model, windows) -> None:
    """Two directions and their opposites: kept tokens are projected on that plane."""
    plane = torch.linalg.qr(torch.randn(128, 2, generator=torch.Generator().manual_seed(0)))[0].T
    directions = torch.cat([plane, -plane])
    sae = SparseAutoencoder(directions.T.contiguous(), torch.zeros(4), directions, torch.zeros(128))
    residuals = full_residuals(model, windows, [2])[2]
    clean = clean_loss(model, windows)
    quality = measure_on_text(
        model, windows, residuals, 2, sae, loss_clean=clean, gates=Gates(l0_share_most=1.0)
    )
    kept = residuals[torch.from_numpy(windows.mask)]
    assert quality.n_tokens == len(kept) and quality.loss_clean == clean
    assert quality.loss_spliced == pytest.approx(
        hooked_loss(model, windows, 2, lambda r: r @ plane.T @ plane), abs=1e-3
    )
    mean = kept.mean(0)
    assert quality.loss_ablated == pytest.approx(
        hooked_loss(model, windows, 2, lambda r: mean.expand_as(r)), abs=1e-3
    )
    assert "explained variance" in quality.reason


@pytest.mark.parametrize("place", ["resid", "mixer_out"])
def test_what_later_blocks_read_beside_the_stream_goes_with_it(place: str) -> None:
    """Zamba2's attention reads the embeddings in every later block that has it."""
    plain, random = tiny("zamba2"), np.random.default_rng(0)
    tokens = random.integers(3, 97, (4, 16), dtype=np.int32)
    windows = TokenWindows(tokens, np.zeros_like(tokens), tokens > 8, "")
    model, layer, ids = plain.placed(place), 0, torch.from_numpy(tokens).long()
    site, last = Site(place, layer), Site("resid", plain.n_layers - 1)

    residuals = full_residuals(model, windows, [layer])[layer]
    halved = torch.where(torch.from_numpy(windows.mask)[..., None], residuals / 2, residuals)
    log_p = plain.run(ids, edits=[Replace(site, halved)]).logits[:, :-1].log_softmax(-1)  # type: ignore[index]
    losses = -log_p.gather(-1, ids[:, 1:, None])[..., 0][torch.from_numpy(windows.mask)[:, 1:]]
    loss = spliced_loss(model, windows, residuals, layer, lambda x: x / 2)
    assert loss == pytest.approx(float(losses.mean()), abs=1e-5)

    streams = streams_of(model, windows, np.arange(4), [layer])
    step = torch.randn(plain.d_model, generator=torch.Generator().manual_seed(0))
    before, embedded = streams.before[layer], streams.embedded
    changed = final_stream(model, layer, streams.own[layer] + step, before, embedded)
    edited = plain.run(ids, capture=[last], edits=[Add(site, step)], stop_after=last)[last]
    torch.testing.assert_close(changed, edited, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(changed, streams.final, atol=1e-2)
