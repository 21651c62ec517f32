"""Shared subspaces of two models' residual streams, and what is left of one model's predictions.

The maps are fitted on the first training tokens and measured on the first held-out ones, at one
block of each model.  Over the counted tokens, with KL the divergence of the target's own
predictions from those with its stream changed (`swap`), "whole" with all of it at its mean,

    kept     = 1 - sum KL_swapped / sum KL_ablated      of what this part of the target's stream
                                                        carries, what the source supplies
    carried  = sum KL_ablated / sum KL_whole            how much this part carries
    alone    = 1 - sum KL_alone / sum KL_whole          of what the whole stream carries, what the
                                                        source's part supplies by itself

and loss_kept is `kept` with what the loss, -log p of the next token, grows by in the place of KL.
A few directions are kept easily where they carry little: `carried` says so, and `alone` cannot be
high for such.  Where k is the target's width, `kept` and `alone` are the same.

Beside the other model are its untrained twin, its rows in random order, another seed of the target,
and the target itself.  Intervals resample documents (percentile bootstrap [Efron 1979]).

Efron, "Bootstrap methods: another look at the jackknife", Ann. Stat. 7, 1979.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from homolog.analyses.alignment_search.swap import (
    OwnPass,
    SourceStream,
    Stream,
    Swap,
    Target,
    dimensions,
    procrustes,
    train_swap,
)
from homolog.analyses.analysis import Tables
from homolog.analyses.material import Material
from homolog.analyses.transplant.measure import similar_blocks
from homolog.corpus import TokenWindows
from homolog.dictionaries.seeds import generator
from homolog.features import capture
from homolog.matching.intervals import INTERVAL
from homolog.models import LanguageModel
from homolog.record.comparisons import MAIN, MODEL_SEED, RANDOM_MODEL
from homolog.record.recipe.meaning import AlignmentSearch
from homolog.record.sides import StudyModel
from homolog.record.tables import ALIGNMENT_SEARCH
from homolog.record.tables.causal import OWN, SHUFFLED
from homolog.threads import library_threads

AT_ONCE = 8  # windows that are measured together
RESAMPLES = 1000
PROCRUSTES, TRAINED = "procrustes", "trained"
Sums = Float[np.ndarray, "document"]
WHOLE = ("whole",)


@dataclass(frozen=True, eq=False)
class Source:
    """Whose residuals stand in, and where they are read."""

    name: str
    model: StudyModel
    layer: int
    shuffled: bool = False

    def stream(self, loaded: LanguageModel, windows: TokenWindows, seed: int) -> SourceStream:
        """Its residuals in windows, float32 on the CPU; 0 at special tokens."""
        rows = capture(loaded, windows, [loaded.own_site(self.layer)])[0]
        if self.shuffled:
            order = generator(seed, "alignment search", SHUFFLED, windows.hash)
            rows = rows[torch.from_numpy(order.permutation(len(rows)))]
        laid = rows.new_zeros(*windows.mask.shape, rows.shape[1])
        laid[torch.from_numpy(windows.mask)] = rows
        return laid


@dataclass(frozen=True, eq=False)
class FittedMap:
    """A map that is measured, with the source's stream in the test windows."""

    source: Source
    kind: str
    swap: Swap
    x: SourceStream


def measure_pair(material: Material, model: str, other: str) -> Tables:
    """Task: what residuals of `other` supply in the place of those of `model`."""
    asked = material.recipe.alignment_search
    pair = sorted((model, other))
    found = similar_blocks(material, pair[0], pair[1], asked.block, "alignment_search")
    blocks = dict(zip(pair, found, strict=True))
    train = _first(material, model, "train", asked.tokens)
    test = _first(material, model, "quality", asked.test_tokens)
    target = Target(material.model(model), blocks[model])
    with library_threads(1, "torch", "blas"):  # small differences grow over the steps
        h = capture(target.model, train, [target.model.own_site(target.layer)])[0]
        tested = [
            each
            for source in sources(material, model, other, blocks)
            for each in fitted(material, source, target, h, train, test)
        ]
        rows = list(measured(target, test, tested, seed=material.seed))
    facts = {
        "model": model,
        "layer": blocks[model],
        "best_model": other,
        "n_train": int(train.mask.sum()),
    }
    return {ALIGNMENT_SEARCH.name: ALIGNMENT_SEARCH.frame([facts | row for row in rows])}


def _first(material: Material, model: str, use: str, n_tokens: int) -> TokenWindows:
    """The first windows of a text with so many tokens, all where it has fewer."""
    windows = material.windows(use, model)
    return windows[: -(-n_tokens // windows.context)]


def sources(material: Material, model: str, other: str, blocks: dict[str, int]) -> Iterator[Source]:
    """The other model, and what is held beside it; a control stands where its model does."""
    models = material.models
    own, best = material.named(model), material.named(other)
    yield Source(MAIN.name, best, blocks[other])
    if seed := models.other_seed.get(model):
        yield Source(MODEL_SEED.name, seed, blocks[model])
    if untrained := models.untrained.get(other):
        yield Source(RANDOM_MODEL.name, untrained, blocks[other])
    yield Source(SHUFFLED, best, blocks[other], shuffled=True)
    yield Source(OWN, own, blocks[model])


def fitted(
    material: Material,
    source: Source,
    target: Target,
    h: Float[torch.Tensor, "token d_target"],
    train: TokenWindows,
    test: TokenWindows,
) -> Iterator[FittedMap]:
    """The trained map of a source; of the other model also the one that it starts from.

    h: the target's stream at the tokens of `train` that are not special.
    """
    asked: AlignmentSearch = material.recipe.alignment_search
    loaded, seed = material.model(source.model), material.seed
    x, tested = (source.stream(loaded, windows, seed) for windows in (train, test))
    start = procrustes(x[torch.from_numpy(train.mask)], h)
    if source.name == MAIN.name:
        yield FittedMap(source, PROCRUSTES, start, tested)
    names = source.name, source.model.name, target.model.name
    swap = train_swap(
        start,
        target,
        train,
        x,
        steps=asked.steps,
        batch=asked.batch,
        lr=asked.lr,
        rng=generator(seed, "alignment search", *names),
    )
    yield FittedMap(source, TRAINED, swap, tested)


@torch.no_grad()
def measured(
    target: Target, windows: TokenWindows, tested: Sequence[FittedMap], *, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """A row for each map and k: `ALIGNMENT_SEARCH` without the target's names.

    windows: the text that the maps were not fitted on.  seed: of the documents resampled.
    """
    names, document = np.unique(windows.document, return_inverse=True)
    sums = _Sums(target, len(names))
    for begin in range(0, len(windows), AT_ONCE):
        some = slice(begin, begin + AT_ONCE)
        own = target.own(windows[some])
        at = document.reshape(windows.document.shape)[some]
        sums.begin(own, torch.from_numpy(windows.tokens[some]).long(), torch.from_numpy(at))
        sums.add(WHOLE, tested[0].swap.mean_h.expand_as(own.h))
        for number, each in enumerate(tested):
            x = each.x[some].to(own.h.device)
            for k in dimensions(each.swap.n_directions):
                kept = each.swap.first(torch.full((len(x),), k))
                sums.add((number, k, "swapped"), each.swap.swapped(own.h, x, kept))
                sums.add((number, k, "ablated"), each.swap.ablated(own.h, kept))
                sums.add((number, k, "alone"), each.swap.alone(x, kept))
    draws = generator(seed, "alignment search", "documents")
    weights = draws.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    for number, each in enumerate(tested):
        facts = {
            "source": each.source.name,
            "source_model": each.source.model.name,
            "source_layer": each.source.layer,
            "map": each.kind,
        }
        for k in dimensions(each.swap.n_directions):
            yield facts | {"k": k} | sums.shares(number, k, weights)


class _Sums:
    """What changes of the stream do, summed over the counted tokens of each document."""

    def __init__(self, target: Target, n_documents: int) -> None:
        self.target, self.n_documents = target, n_documents
        self.kl: dict[tuple, Sums] = {}
        self.grown: dict[tuple, Sums] = {}
        self.n_counted, self.loss = 0, 0.0

    def begin(self, own: OwnPass, tokens: torch.Tensor, document: torch.Tensor) -> None:
        """The windows that what is added next is about."""
        self.own, self.tokens = own, tokens.to(own.h.device)
        self.document = document[own.counted.cpu()]
        self.losses = losses_of(own.logs, self.tokens)[own.counted]
        self.n_counted += len(self.losses)
        self.loss += float(self.losses.double().sum())

    def add(self, key: tuple, h: Stream) -> None:
        """With h in the own stream's place: KL, and what the loss grows by."""
        logs = self.target.logs(self.own, h)
        grown = losses_of(logs, self.tokens)[self.own.counted] - self.losses
        for total, values in ((self.kl, self.own.divergence(logs)), (self.grown, grown)):
            sums = torch.zeros(self.n_documents, dtype=torch.float64)
            sums.index_add_(0, self.document, values.double().cpu())
            total[key] = total.get(key, 0.0) + sums.numpy()

    def shares(self, number: int, k: int, weights: np.ndarray) -> dict[str, Any]:
        """The numbers of a row.  weights: (replicate, document), of the documents resampled."""
        keys: dict[str, tuple] = {
            name: (number, k, name) for name in ("swapped", "ablated", "alone")
        }
        keys["whole"] = WHOLE
        kl, grown = ({n: of[key] for n, key in keys.items()} for of in (self.kl, self.grown))
        row: dict[str, Any] = {
            "n_test": self.n_counted,
            "carried": _ratio(kl["ablated"], kl["whole"]),
            "loss_kept": 1 - _ratio(grown["swapped"], grown["ablated"]),
            "loss_alone": 1 - _ratio(grown["alone"], grown["whole"]),
            "loss_own": self.loss / max(1, self.n_counted),
        }
        row |= {f"kl_{name}": float(values.sum()) / self.n_counted for name, values in kl.items()}
        for name, part, of in (("kept", "swapped", "ablated"), ("alone", "alone", "whole")):
            drawn = 1 - (weights @ kl[part]) / np.maximum(weights @ kl[of], np.finfo(float).tiny)
            lo, hi = np.quantile(drawn, INTERVAL)
            row |= {name: 1 - _ratio(kl[part], kl[of]), f"{name}_lo": lo, f"{name}_hi": hi}
        return row


def losses_of(
    logs: Float[torch.Tensor, "window position vocabulary"],
    tokens: Int[torch.Tensor, "window position"],
) -> Float[torch.Tensor, "window position"]:
    """-log p of the token that comes next, in nats; 0 at the last position."""
    chosen = logs[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    return -torch.nn.functional.pad(chosen, (0, 1))


def _ratio(part: Sums, of: Sums) -> float:
    """NaN where there is nothing to have a part of."""
    return float(part.sum() / of.sum()) if of.sum() > 0 else float("nan")
