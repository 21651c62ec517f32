"""What a dictionary's errors cost the model: its loss with one layer's residuals replaced.

The residuals of the held-out text are captured once; each splice then runs only the blocks after
its layer, where dictionaries are of the stream after a block, and a whole pass elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float

from homolog.axes import Activations
from homolog.corpus import TokenWindows
from homolog.dictionaries import Gates, Quality, SparseAutoencoder, measure_quality
from homolog.models import LanguageModel, Replace, Site
from homolog.record.layers import STREAM_AFTER

LOSS_TOKENS = 8192  # tokens in a pass that measures losses
LOGITS_AT_ONCE = 1 << 28  # of such a pass, which has fewer tokens where the vocabulary is large


@torch.inference_mode()
def full_residuals(
    model: LanguageModel, text: TokenWindows, layers: Sequence[int]
) -> dict[int, Float[torch.Tensor, "windows context d_model"]]:
    """Residuals at the place of some blocks, special tokens kept, where the model computes them."""
    sites = [model.own_site(layer) for layer in layers]
    last = Site("resid", max(layers))
    parts: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    for rows in _batches(text):
        run = model.run(torch.from_numpy(text.tokens[rows]).long(), capture=sites, stop_after=last)
        for layer, site in zip(layers, sites, strict=True):
            parts[layer].append(run[site])
    return {layer: torch.cat(of_layer) for layer, of_layer in parts.items()}


def clean_loss(model: LanguageModel, text: TokenWindows) -> float:
    """Mean next-token loss (nats) where the predicted token is not special; NaN where all are."""

    def of_clean(tokens: torch.Tensor, _rows: slice) -> torch.Tensor:
        logits = model.run(tokens).logits
        assert logits is not None
        return logits

    return _loss(model, text, of_clean)


def spliced_loss(
    model: LanguageModel,
    text: TokenWindows,
    residuals: torch.Tensor,
    layer: int,
    transform: Callable[[Activations], Activations],
) -> float:
    """`clean_loss` with `transform` applied to a layer's residuals at tokens that are not special.

    residuals: of this layer, from `full_residuals`.  transform: takes and returns (token, d_model),
    float32, where the model is.
    """

    def of_spliced(tokens: torch.Tensor, rows: slice) -> torch.Tensor:
        h, keep = residuals[rows].clone(), torch.from_numpy(text.mask[rows])
        h[keep] = transform(h[keep].float()).to(h)
        if model.place == STREAM_AFTER:
            return model.continue_from(layer, h, embedded=model.embedded_for(layer, tokens))
        logits = model.run(tokens, edits=[Replace(model.own_site(layer), h)]).logits
        assert logits is not None
        return logits

    return _loss(model, text, of_spliced)


def measure_on_text(
    model: LanguageModel,
    text: TokenWindows,
    residuals: torch.Tensor,
    layer: int,
    sae: SparseAutoencoder,
    *,
    loss_clean: float,
    gates: Gates | None = None,
) -> Quality:
    """The dictionary's quality on held-out text, loss recovered included.

    residuals: of its layer, from `full_residuals`.  loss_clean: from `clean_loss`, the same for all
    layers.
    """
    return measure_quality(
        sae,
        residuals.flatten(0, 1),
        keep=torch.from_numpy(text.mask).reshape(-1),
        loss_clean=loss_clean,
        gates=gates,
        spliced_loss=partial(spliced_loss, model, text, residuals, layer),
    )


@torch.inference_mode()
def _loss(
    model: LanguageModel,
    text: TokenWindows,
    logits_of: Callable[[torch.Tensor, slice], torch.Tensor],
) -> float:
    """logits_of: of the windows of a slice, given their tokens."""
    total, count = 0.0, 0
    vocabulary = max(1, int(model.embedding().weight.shape[0]))
    for rows in _batches(text, LOGITS_AT_ONCE // vocabulary):
        tokens = torch.from_numpy(text.tokens[rows]).long()
        logits = logits_of(tokens, rows)[:, :-1]
        counted = torch.from_numpy(text.mask[rows])[:, 1:].to(logits.device)
        losses = torch.nn.functional.cross_entropy(
            logits[counted], tokens[:, 1:].to(logits.device)[counted], reduction="sum"
        )
        total, count = total + float(losses), count + int(counted.sum())
    return total / count if count else math.nan


def _batches(text: TokenWindows, most_tokens: int = LOSS_TOKENS) -> list[slice]:
    at_once = max(1, min(LOSS_TOKENS, most_tokens) // text.context)
    return [slice(first, first + at_once) for first in range(0, len(text), at_once)]
