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
from homolog.record.layers import STREAM_AFTER

LOGITS_AT_ONCE, LEAST_ROWS = 1 << 22, 64  # fewer rows only wait for the unembedding's weights
Stream = Float[torch.Tensor, "prompt position d_model"]


@dataclass(frozen=True)
class ProbedModel:
    """A model with the dictionaries, by layer, along whose directions something is added."""

    model: LanguageModel
    dictionaries: Mapping[int, SparseAutoencoder]


@dataclass(frozen=True)
class Streams:
    """What some windows have at the dictionaries' places in some blocks, and after the last one."""

    number: dict[int, int]
    """Of each window, in the streams."""
    own: dict[int, Stream]
    """At the place of each block, where something is added."""
    before: dict[int, Stream | None]
    """Before each block; None where the place is the stream after it."""
    final: Stream
    embedded: Stream | None
    """What later blocks read beside the stream; None: nothing."""

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
    own = {int(layer): model.own_site(int(layer)) for layer in layers}
    inside, end = model.place != STREAM_AFTER, Site(STREAM_AFTER, model.n_layers - 1)
    before = {layer: Site("resid_pre", layer) if inside else None for layer in own}
    sites = {*own.values(), *filter(None, before.values()), end}
    tokens = torch.from_numpy(windows.tokens[names]).long()
    embed = Site("embed")
    if beside := any(model.reads_embeddings_after(layer - inside) for layer in own):
        sites.add(embed)
    run = model.run(tokens, capture=list(sites), stop_after=end)
    return Streams(
        {int(window): place for place, window in enumerate(names)},
        {layer: run[site] for layer, site in own.items()},
        {layer: None if site is None else run[site] for layer, site in before.items()},
        run[end],
        run[embed] if beside else None,
    )


def final_stream(
    model: LanguageModel,
    layer: int,
    h: Stream,
    before: Stream | None,
    embedded: Stream | None = None,
) -> Stream:
    """The stream after the last block, from `h` at the dictionary's place in block `layer`.

    before, embedded: the stream before that block and what is read beside it, as in `Streams`.
    """
    last = model.n_layers - 1
    start, stream, edits = model.with_own(layer, before, h)
    if start == last:
        return stream
    kept: list[torch.Tensor] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.append(value)
        return value

    seen = Transform(Site(STREAM_AFTER, last), function=keep)
    model.continue_from(start, stream, [*edits, seen], True, embedded)
    return kept[0]


def logs_of(model: LanguageModel, h: Float[torch.Tensor, "row d_model"]) -> torch.Tensor:
    """log p of the next token (row, vocabulary), from rows of the last stream."""
    return model.logits(h[:, None])[:, 0].log_softmax(-1)


def vocabulary_of(model: LanguageModel) -> int:
    """Tokens that a model embeds, those that its tokenizer never gives among them."""
    return int(model.embedding().weight.shape[0])


def in_parts(n: int, model: LanguageModel) -> Iterator[slice]:
    """Rows that are unembedded together."""
    step = max(LEAST_ROWS, LOGITS_AT_ONCE // max(1, vocabulary_of(model)))
    return (slice(first, first + step) for first in range(0, n, step))
