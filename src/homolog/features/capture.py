"""Activations of a model on a token stream: one pass a batch of windows, special tokens dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float

from homolog.corpus import TokenWindows
from homolog.models import LanguageModel, Site

WINDOWS_AT_ONCE = 64


@torch.inference_mode()
def capture(
    model: LanguageModel,
    windows: TokenWindows,
    sites: Sequence[Site],
    *,
    advance: Callable[[int], None] | None = None,
) -> list[Float[torch.Tensor, "token width"]]:
    """The value at each site for every token that is not masked: float32 (token, width) on the CPU, in stream order.

    A pass ends with the last block that a site needs.  advance: called with the number of tokens after each batch.
    """
    last = max((site.layer for site in sites if site.layer is not None), default=None)
    stop = Site("embed") if last is None else Site("resid", last)
    n_kept = int(windows.mask.sum())
    found: list[torch.Tensor] = []
    start = 0
    for first in range(0, len(windows), WINDOWS_AT_ONCE):
        part = windows[first : first + WINDOWS_AT_ONCE]
        keep = torch.from_numpy(part.mask)
        run = model.run(torch.from_numpy(part.tokens).long(), capture=sites, stop_after=stop)
        n = int(keep.sum())
        for i, site in enumerate(sites):
            kept = run[site].float().cpu()[keep]
            if first == 0:
                found.append(torch.empty(n_kept, kept.shape[1]))
            found[i][start : start + n] = kept
        start += n
        if advance is not None:
            advance(part.n_tokens)
    return found


def residual_sites(model: LanguageModel) -> list[Site]:
    """The residual stream after every block."""
    return [Site("resid", layer) for layer in range(model.n_layers)]
