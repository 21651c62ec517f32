"""Passes with something added to the residual stream, up to the stream after the last block.

What is asked at a few positions is unembedded there alone: the vocabulary is wide, the stream not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from homolog.corpus import TokenWindows
from homolog.dictionaries import SparseAutoencoder
from homolog.features.capture import FORWARD_TOKENS
from homolog.models import LanguageModel, Site
from homolog.models.edits import Transform

LOGITS_AT_ONCE = 1 << 22
Stream = Float[torch.Tensor, "prompt position d_model"]


@dataclass(frozen=True)
class ProbedModel:
    """A model with the dictionaries, by layer, along whose directions something is added."""

    model: LanguageModel
    dictionaries: Mapping[int, SparseAutoencoder]


@dataclass(frozen=True)
class Streams:
    """The residual streams of some windows: after some blocks, and after the last one."""

    number: dict[int, int]
    """Of each window, in the streams."""
    after: dict[int, Stream]
    final: Stream

    def rows(self, window: np.ndarray) -> torch.Tensor:
        """Where windows stand in the streams."""
        return torch.tensor([self.number[int(w)] for w in window], dtype=torch.long)


def windows_at_once(windows: TokenWindows) -> int:
    """Windows that are run together."""
    return max(1, FORWARD_TOKENS // windows.context)


def in_groups(window: np.ndarray, at_once: int) -> list[np.ndarray]:
    """Places in `window` in groups that lie in at most `at_once` windows."""
    rank = np.unique(window, return_inverse=True)[1] // at_once
    n_groups = int(rank.max()) + 1 if len(rank) else 0
    return [np.flatnonzero(rank == group) for group in range(n_groups)]


def streams_of(
    model: LanguageModel, windows: TokenWindows, wanted: np.ndarray, layers: Sequence[int]
) -> Streams:
    """One pass over the wanted windows, as they are."""
    names = np.unique(wanted)
    last = model.n_layers - 1
    sites = {int(at): Site("resid", int(at)) for at in {*layers, last}}
    tokens = torch.from_numpy(windows.tokens[names]).long()
    run = model.run(tokens, capture=list(sites.values()), stop_after=sites[last])
    after = {layer: run[sites[layer]] for layer in map(int, layers)}
    number = {int(window): place for place, window in enumerate(names)}
    return Streams(number, after, run[sites[last]])


def final_stream(model: LanguageModel, layer: int, h: Stream) -> Stream:
    """The stream after the last block, from `h` after block `layer`."""
    last = model.n_layers - 1
    if layer == last:
        return h
    kept: list[torch.Tensor] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.append(value)
        return value

    seen = Transform(Site("resid", last), function=keep)
    model.continue_from(layer, h, edits=[seen], last_only=True)
    return kept[0]


def logs_of(model: LanguageModel, h: Float[torch.Tensor, "row d_model"]) -> torch.Tensor:
    """log p of the next token (row, vocabulary), from rows of the last stream."""
    return model.logits(h[:, None])[:, 0].log_softmax(-1)


def in_parts(n: int, model: LanguageModel) -> Iterator[slice]:
    """Rows that are unembedded together."""
    vocabulary = max(1, int(model.embedding().weight.shape[0]))
    step = max(1, LOGITS_AT_ONCE // vocabulary)
    return (slice(first, first + step) for first in range(0, n, step))
