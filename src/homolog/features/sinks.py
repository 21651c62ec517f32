"""Sinks: the few positions whose residuals dwarf all others, found by their norm and left out.

    limit of a layer   10 median_t ||x_t||   over the tokens of a sample (`dictionaries.variance`)
    sink layers        those where tokens above the limit hold more than a share of the variance
    sinks              positions above the limit in any of the sink layers

A model whose attention has nowhere to go puts it on the first token of a window, or on another one
that says little, and gives that token a norm 100 times the median [Xiao 2023, arXiv 2309.17453; Sun
2024, arXiv 2402.17762].  It needs no special token there, so no mask by id finds it.  A layer with
a few tokens just above 10 medians, which hold next to nothing, is left as it is.

What is left out stays in the text: every model reads it, and where a layer's residuals are replaced
it keeps its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from homolog.corpus import TokenWindows
from homolog.dictionaries.variance import SINK_NORM, SINK_SHARE, norms_of, sink_share
from homolog.features.capture import SHARD_BYTES, capture_residuals, cut_shards
from homolog.models import LanguageModel

Limits = Mapping[int, float]
"""By layer the norm above which a token is a sink; empty where there are none."""


@dataclass(frozen=True)
class LayerNorms:
    """Norms of the residuals of a layer: their median, and the variance on what is far above it."""

    layer: int
    median: float
    sink_share: float
    """As the gate of that name measures it; NaN where nothing varies."""

    def facts(self) -> dict[str, Any]:
        """As JSON values, None for NaN: `LayerNorms.of(facts)`."""
        return asdict(self) | {"sink_share": None if np.isnan(self.sink_share) else self.sink_share}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "LayerNorms":
        """From the values of `facts`."""
        share = facts["sink_share"]
        return cls(facts["layer"], facts["median"], np.nan if share is None else share)


def measure_norms(
    model: LanguageModel, sample: TokenWindows, layers: Sequence[int], memory: int = SHARD_BYTES
) -> list[LayerNorms]:
    """Of the residuals after these blocks, at the tokens of a sample that are not masked.

    memory: bytes of residuals held at once, or those of one layer; the sample is read as often as
    that takes.
    """
    norms, of_layer = [], int(sample.mask.sum()) * model.d_model * 4
    at_once = max(1, memory // of_layer)
    for first in range(0, len(layers), at_once):
        residuals = capture_residuals(model, sample, layers[first : first + at_once])
        for layer, x in residuals.items():
            norms.append(LayerNorms(layer, float(np.median(norms_of(x))), sink_share(x)))
    return norms


def limits_of(norms: Iterable[LayerNorms], share: float = SINK_SHARE) -> dict[int, float]:
    """The limits of the layers whose sinks hold more than a share of the variance."""
    return {own.layer: SINK_NORM * own.median for own in norms if own.sink_share > share}


def above_limits(
    residuals: Mapping[int, torch.Tensor], limits: Limits
) -> dict[int, Bool[torch.Tensor, " token"]]:
    """Which tokens are sinks, by sink layer; residuals: (token, d_model) by layer."""
    return {
        layer: torch.linalg.vector_norm(residuals[layer], dim=1, dtype=torch.float32) > limit
        for layer, limit in limits.items()
    }


def any_of(by_layer: Mapping[int, torch.Tensor]) -> Bool[torch.Tensor, " token"]:
    """Which tokens are sinks in any layer."""
    return torch.stack(list(by_layer.values())).any(dim=0)


@dataclass(frozen=True, eq=False)
class Sinks:
    """Where the sinks of some windows are, and how many each layer has.

    places: int64, ascending, in the flattened windows.  counts: by layer.
    """

    places: np.ndarray
    counts: dict[int, int]

    @classmethod
    def joined(cls, parts: Sequence["Sinks"]) -> "Sinks":
        """Those of consecutive windows, whose places are in the whole of them."""
        counts = {layer: sum(part.counts[layer] for part in parts) for layer in parts[0].counts}
        return cls(np.concatenate([part.places for part in parts]), counts)


def find_sinks(
    model: LanguageModel, windows: TokenWindows, limits: Limits, memory: int = SHARD_BYTES
) -> Sinks:
    """The sinks of windows, in one pass up to the last sink layer.

    memory: bytes of residuals held at once.
    """
    parts, kept = [], np.flatnonzero(windows.mask)
    done = 0
    for shard in cut_shards(windows, model, memory):
        residuals = capture_residuals(model, shard.of(windows), sorted(limits))
        by_layer = above_limits(residuals, limits)
        is_sink = any_of(by_layer).cpu().numpy()
        rows = done + np.flatnonzero(is_sink)
        counts = {layer: int(own.sum()) for layer, own in by_layer.items()}
        parts.append(Sinks(kept[rows], counts))
        done += len(is_sink)
    return Sinks.joined(parts)


def without_places(windows: TokenWindows, places: np.ndarray) -> TokenWindows:
    """The windows with these places of the flattened ones masked, those beyond their end aside."""
    if not len(places):
        return windows
    mask = windows.mask.copy()
    mask.reshape(-1)[places[places < mask.size]] = False
    return replace(windows, mask=mask)
