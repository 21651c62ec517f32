"""Ablation of nodes: what is put in the place of a node's output.

    zero      nothing
    mean      its mean over the corrupt prompts, position by position
    resample  its value in the corrupt prompt of the same pair

A head is ablated at z, which is the same as at its output: that is linear in z.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from homolog.axes import Tokens
from homolog.corpus.tasks.nearest import check_choice
from homolog.models.decoder import Decoder
from homolog.models.edits import Edit, Resample, Zero
from homolog.models.runs import Run
from homolog.models.sites import Site

HOWS = ("zero", "mean", "resample")


class Ablation:
    """Passes of a model with some of `sites` ablated, the prompts in chunks.

    source  the corrupt prompts, one for each clean one
    batch   prompts in one pass
    InputError for an unknown way.
    """

    def __init__(
        self, model: Decoder, sites: Sequence[Site], how: str, source: Tokens, batch: int
    ) -> None:
        check_choice("ablation", how, HOWS)
        # the prompts hold what they begin with
        self._model, self._how, self._source = cast("Decoder", model.plain), how, source
        self._places = list(dict.fromkeys(_place(site) for site in sites))
        if how == "mean":
            totals: dict[Site, Tensor] = {}
            for chunk in source.split(batch):
                for place, value in self._read(chunk).captured.items():
                    totals[place] = totals.get(place, 0) + value.double().sum(0, keepdim=True)
            self._means = Run(None, {place: total / len(source) for place, total in totals.items()})

    def values(self, rows: slice) -> Run | None:
        """What to put there for the prompts `rows`; a mean has one row for all, zeros are None."""
        if self._how == "zero":
            return None
        return self._means if self._how == "mean" else self._read(self._source[rows])

    def logits(
        self, tokens: Tokens, sets: Sequence[Collection[Site]], values: Run | None
    ) -> Iterator[tuple[int, Float[Tensor, "batch vocabulary"]]]:
        """Logits at the last position with each of the sets of sites ablated, after its index.

        They come in an order of their own: sets that agree in the first blocks share the pass
        through these.  values: of these prompts.
        """
        by_block = [_by_block(sites) for sites in sets]
        for sites, alike in _alike(by_block, range(len(sets)), -1):
            edits = _edits(sites, values)
            with torch.no_grad():
                h = self._model.run(tokens, ["embed"], edits, stop_after="embed")["embed"]
            yield from self._onward(0, h, h, by_block, alike, values)

    def _onward(
        self,
        layer: int,
        h: Tensor,
        embedded: Tensor,
        sets: Sequence[_ByBlock],
        alike: Sequence[int],
        values: Run | None,
    ) -> Iterator[tuple[int, Tensor]]:
        """From the stream `h` before a block, of the sets that are alike so far."""
        if layer == self._model.n_layers:
            with torch.no_grad():
                logits = self._model.logits(h[:, -1:])[:, -1]
            yield from ((i, logits) for i in alike)
            return
        stream = Site("resid", layer)
        for sites, still in _alike(sets, alike, layer):
            edits = _edits(sites, values)
            with torch.no_grad():
                run = self._model.run_blocks(layer, layer, h, [stream], edits, embedded)
            yield from self._onward(layer + 1, run[stream], embedded, sets, still, values)

    def _read(self, tokens: Tokens) -> Run:
        with torch.no_grad():
            return self._model.run(tokens, capture=self._places, last_only=True)


_ByBlock = dict[int, frozenset[Site]]


def _by_block(sites: Iterable[Site]) -> _ByBlock:
    """The sites of each block; -1 stands for the embeddings."""
    parts: dict[int, set[Site]] = {}
    for site in sites:
        parts.setdefault(-1 if site.layer is None else site.layer, set()).add(site)
    return {layer: frozenset(part) for layer, part in parts.items()}


def _alike(
    sets: Sequence[_ByBlock], some: Iterable[int], layer: int
) -> list[tuple[list[Site], list[int]]]:
    """Those of some sets that ablate the same in a block, after what that is."""
    groups: dict[frozenset[Site], list[int]] = {}
    for i in some:
        groups.setdefault(sets[i].get(layer, frozenset()), []).append(i)
    return [(sorted(sites, key=str), alike) for sites, alike in groups.items()]


def _place(site: Site) -> Site:
    """The whole activation that a node is part of."""
    return Site("z" if site.kind == "head_out" else site.kind, site.layer)


def _edits(ablate: Iterable[Site], values: Run | None) -> list[Edit]:
    """The edits that ablate: one for all heads of a block that have the same positions."""
    positions: dict[tuple[Site, int | None], set[int | None]] = {}
    for site in ablate:
        positions.setdefault((_place(site), site.head), set()).add(site.position)
    heads: dict[tuple[Site, tuple[int, ...] | None, bool], list[int]] = {}
    for (place, head), some in positions.items():
        at = None if None in some else tuple(sorted(p for p in some if p is not None))
        heads.setdefault((place, at, head is None), []).extend([] if head is None else [head])
    return [
        Zero(place, positions=at, heads=own or None)
        if values is None
        else Resample(place, positions=at, heads=own or None, source=values)
        for (place, at, _), own in heads.items()
    ]
