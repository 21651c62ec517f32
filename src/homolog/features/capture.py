"""Activations of a model on a token stream, batch by batch of windows, special tokens dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from homolog.corpus import TokenWindows
from homolog.models import LanguageModel, Site

FORWARD_TOKENS = 4096  # of one pass, or one window if that is longer
SHARD_BYTES = 2 << 30  # residuals of all layers held at once


@dataclass(frozen=True)
class Shard:
    """Windows `first` to `last` (not included) of a token stream: work that is done or not done."""

    number: int
    first: int
    last: int

    def of(self, windows: TokenWindows) -> TokenWindows:
        """The shard's windows."""
        return windows[self.first : self.last]


def cut_shards(
    windows: TokenWindows,
    model: LanguageModel,
    memory: int = SHARD_BYTES,
    n_layers: int | None = None,
) -> list[Shard]:
    """The stream in shards whose residuals, in float32, take at most `memory` bytes.

    n_layers: of how many layers they are held at once; all of the model's by default.
    A shard is a whole number of forward passes, one at least, so every pass has the same windows in
    it however the stream is cut, and with them the same values.
    """
    batch = _windows_at_once(windows)
    per_batch = batch * windows.context * (n_layers or model.n_layers) * model.d_model * 4
    step = batch * max(1, memory // per_batch)
    starts = range(0, len(windows), step)
    return [
        Shard(number, first, min(first + step, len(windows))) for number, first in enumerate(starts)
    ]


def capture(
    model: LanguageModel,
    windows: TokenWindows,
    sites: Sequence[Site],
    *,
    advance: Callable[[int], None] | None = None,
) -> list[Float[torch.Tensor, "token width"]]:
    """The value at each site for every token that is not masked, in stream order.

    Float32 (token, width) on the CPU.  A pass ends with the last block that a site needs.  advance:
    called with the number of tokens after each batch.
    """
    values = _gather(model, windows, sites, torch.device("cpu"), torch.float32, advance)
    return [values[site] for site in sites]


def capture_residuals(
    model: LanguageModel, windows: TokenWindows, layers: Sequence[int]
) -> dict[int, Float[torch.Tensor, "token d_model"]]:
    """Residuals at the model's place of the given blocks, for tokens not masked, by layer.

    On the model's device, in the dtype in which it computes them.
    """
    sites = [model.own_site(layer) for layer in layers]
    values = _gather(model, windows, sites, model.device, None, None)
    return {layer: values[site] for layer, site in zip(layers, sites, strict=True)}


def fill_residuals(
    model: LanguageModel, windows: TokenWindows, layers: Sequence[int], into: Sequence[torch.Tensor]
) -> None:
    """`capture_residuals` into tensors that are there: (token or more, d_model), any float."""
    sites = [model.own_site(layer) for layer in layers]
    _gather(model, windows, sites, None, None, None, dict(zip(sites, into, strict=True)))


def _gather(model, windows, sites, device, dtype, advance, into=None) -> dict[Site, torch.Tensor]:
    """Captured values of all windows, special tokens dropped; dtype None keeps that of the model.

    into: tensors to write to; else they are made, with as many rows as there are tokens.
    """
    n_kept, start = int(windows.mask.sum()), 0
    into = {} if into is None else into
    for part, values in _passes(model, windows, sites):
        keep = torch.from_numpy(part.mask).to(model.device)
        n = int(keep.sum())
        for site, value in values.items():
            kept = value[keep]
            if site not in into:
                shape = (n_kept, kept.shape[1])
                into[site] = torch.empty(shape, dtype=dtype or kept.dtype, device=device)
            into[site][start : start + n].copy_(kept)
        start += n
        if advance is not None:
            advance(part.n_tokens)
    return into


def _passes(
    model: LanguageModel, windows: TokenWindows, sites: Sequence[Site]
) -> Iterator[tuple[TokenWindows, dict[Site, torch.Tensor]]]:
    last = max((site.layer for site in sites if site.layer is not None), default=None)
    stop = Site("embed") if last is None else Site("resid", last)
    batch = _windows_at_once(windows)
    for first in range(0, len(windows), batch):
        part = windows[first : first + batch]
        with torch.inference_mode():
            run = model.run(torch.from_numpy(part.tokens).long(), capture=sites, stop_after=stop)
        # outside, or the caller would be in inference mode too
        yield part, {site: run[site] for site in sites}


def _windows_at_once(windows: TokenWindows) -> int:
    return max(1, FORWARD_TOKENS // windows.context)
