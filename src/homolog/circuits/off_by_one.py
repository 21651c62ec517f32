"""At which offset does a token's information enter the state?  The Off-by-One test [Wang 2025].

On induction prompts the token B is replaced, and what each position after it carries is patched,
one position at a time, with everything else held:

    Mamba         the state write at B + offset, with its own decay, in each layer
    Transformer   key and value at B + offset, as the key head reads them from the end

e(offset) is the drop of the answer's logit difference.  A model is off by one when what B carries
is written one position late.  Beside the measurement stand

    prediction    from the mixer alone: the share of the convolution's output that each tap contributes,
                  sum over channels of (weight * standard deviation of its input)^2; tap k back is
                  offset k
    null          the same patches around a token that nothing depends on, in the same prompts

Verdict: the offset with the largest drop, when it is the largest in at least `SURE` of the
resampled sets of prompts and its interval lies above the null; else "undecided".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from homolog.circuits.attention_paths import AttentionPaths
from homolog.circuits.effects import Question, measure_effects
from homolog.circuits.induction import METRIC, Prompts, around, tracer_of
from homolog.circuits.metrics import Interval, interval, percentiles, resampled_means
from homolog.circuits.replay import Patched
from homolog.circuits.state_paths import StatePaths
from homolog.corpus.tasks import PromptPairs, ordinary_ids
from homolog.models.base import LanguageModel
from homolog.models.mamba import Mamba
from homolog.models.sites import Site
from homolog.models.transformer import READS

OFFSETS = (-1, 0, 1, 2, 3, 4)
SURE = 0.975
_UNRELATED = int.from_bytes(
    b"unrelated", "little"
)  # keeps this draw apart from others with the same seed


@dataclass(frozen=True)
class Profile:
    """What one layer (or head) shows, by offset.

    place       "write.5", or "z.2.3" for what that head reads
    effect      drop of the logit difference at each of `OFFSETS`, with intervals
    null        the same around an unrelated token
    predicted   share of each offset from the convolution alone; NaN where the mixer predicts nothing
    """

    place: str
    effect: Interval
    null: Interval
    predicted: Tensor

    def rows(self) -> list[dict[str, Any]]:
        """One row an offset."""
        total = float(self.effect.mean.clamp_min(0).sum())
        return [
            {
                "place": self.place,
                "offset": offset,
                "effect": float(self.effect.mean[i]),
                "effect_lo": float(self.effect.low[i]),
                "effect_hi": float(self.effect.high[i]),
                "share": max(0.0, float(self.effect.mean[i])) / total
                if total > 0
                else float("nan"),
                "predicted_share": float(self.predicted[i]),
                "null": float(self.null.mean[i]),
                "null_lo": float(self.null.low[i]),
                "null_hi": float(self.null.high[i]),
            }
            for i, offset in enumerate(OFFSETS)
        ]


@dataclass(frozen=True)
class OffByOne:
    """The verdict of a model.

    verdict    "off by one", "no shift", "shift of N" or "undecided"
    offset     where the drop is largest, over all layers together
    certainty  share of resampled sets of prompts in which that offset has the largest drop
    centre     mean offset, weighted by the drops, with its interval
    predicted  offset with the largest predicted share, in the layer that carries most; None where nothing is predicted
    """

    model: str
    verdict: str
    offset: int
    certainty: float
    centre: Interval
    predicted: int | None
    profiles: tuple[Profile, ...]


def off_by_one(
    model: LanguageModel, prompts: Prompts, key: str, advance: Callable[[int], None] | None = None
) -> OffByOne:
    """Run the test on a model that does the task; `key` is its key head (z.2.3), or its key state
    (state.5).

    advance   told after each batch how many prompts are done, first around B and then around another token
    Errors: InputError for an architecture without path patching.
    """
    paths = tracer_of(model).paths
    pairs = prompts.pairs(model, "replace_B")
    elsewhere = unrelated(model, pairs, prompts)
    of = {"replace_B": pairs, "an unrelated token": elsewhere}
    looked = places(model, key)
    questions = [Question("off by one", name, lambda p, part: _ask(p, looked, part)) for name in of]
    found = measure_effects(
        questions,
        of.__getitem__,
        lambda clean, corrupt: paths(model, clean, corrupt),
        prompts.batch,
        advance,
    )
    # (place, offset, prompt): what each patch costs, around B and around the unrelated token
    drop, null = (
        -effects.change(METRIC).unflatten(0, (len(looked), len(OFFSETS))) for effects in found
    )
    profiles = [
        Profile(
            place,
            interval(drop[i], seed=prompts.seed),
            interval(null[i], seed=prompts.seed),
            _predicted(model, place, pairs),
        )
        for i, place in enumerate(looked)
    ]
    return _verdict(model.name, drop.sum(0), profiles, prompts.seed)


def places(model: LanguageModel, key: str) -> list[str]:
    """Where the test looks: the writes of every layer, or what the key head reads."""
    return (
        [f"write.{layer}" for layer in range(model.n_layers)] if isinstance(model, Mamba) else [key]
    )


def unrelated(model: LanguageModel, pairs: PromptPairs, prompts: Prompts) -> PromptPairs:
    """The same prompts with another token replaced: one that is neither A nor B nor repeated, named
    "B" in its turn.
    """
    generator = np.random.default_rng([_UNRELATED, prompts.seed])
    n, length = pairs.clean.shape
    place = torch.arange(length)[None].expand(n, -1)
    last, b = length - prompts.repeat, pairs.positions["B"][:, None]
    free = (place < last - 1) & ((place < b - prompts.repeat) | (place > b))
    chosen = torch.from_numpy(np.where(free.numpy(), generator.random((n, length)), -1).argmax(1))
    drawn = torch.from_numpy(generator.choice(ordinary_ids(model), (n, length + 3)))
    taken = torch.cat([pairs.clean, pairs.corrupt, pairs.answer[:, None]], 1)
    new = (
        (drawn[:, :, None] != taken[:, None]).all(-1).float().argmax(1)
    )  # the first that the prompt has not
    corrupt = pairs.clean.clone()
    corrupt[torch.arange(n), chosen] = drawn[torch.arange(n), new]
    return replace(pairs, corrupt=corrupt, positions={**pairs.positions, "B": chosen})


def _ask(
    paths: AttentionPaths | StatePaths, looked: list[str], part: PromptPairs
) -> Iterator[Patched]:
    """Every offset of every place, in that order."""
    at = around(part, "B", OFFSETS)
    for place in looked:
        if isinstance(paths, StatePaths):
            yield from paths.writes_to_logits(int(place.split(".")[1]), at)
        else:
            yield from paths.reads_to_logits(place, at, READS)


def _predicted(model: LanguageModel, place: str, pairs: PromptPairs) -> Tensor:
    """Share of each offset in the output of the layer's convolution; the taps are its memory of
    earlier positions.
    """
    if not isinstance(model, Mamba):
        return torch.full((len(OFFSETS),), torch.nan)
    layer = int(place.split(".")[1])
    with torch.no_grad():
        run = model.run(
            pairs.clean[:64], capture=[Site("conv_in", layer)], stop_after=f"resid.{layer}"
        )
        spread = run[Site("conv_in", layer)].double().flatten(0, 1).std(0)
        energy = (model.mixer(layer).conv1d.weight[:, 0] * spread[:, None]).square().sum(0).flip(0)
    share = (energy / energy.sum()).cpu()
    return torch.tensor(
        [float(share[o]) if 0 <= o < len(share) else 0.0 for o in OFFSETS], dtype=torch.float64
    )


def _verdict(model: str, drop: Tensor, profiles: list[Profile], seed: int) -> OffByOne:
    """From the drops (offset, prompt), all layers together."""
    again = resampled_means(drop, seed=seed)
    mean = drop.double().mean(-1)
    best = int(mean.argmax())
    certainty = float((again.argmax(0) == best).double().mean())
    offsets = torch.tensor(OFFSETS, dtype=torch.float64)

    def centre(means: Tensor) -> Tensor:
        weight = means.clamp_min(0)
        return (offsets @ weight) / weight.sum(0)

    low = float(torch.quantile(again[best], 0.025))
    null = float(torch.stack([p.null.high for p in profiles]).sum(0).max())
    verdict = "undecided"
    if certainty >= SURE and low > null:
        verdict = {0: "no shift", 1: "off by one"}.get(OFFSETS[best], f"shift of {OFFSETS[best]}")
    strongest = max(profiles, key=lambda p: float(p.effect.mean.max()))
    known = not bool(strongest.predicted.isnan().any())
    predicted = OFFSETS[int(strongest.predicted.argmax())] if known else None
    return OffByOne(
        model,
        verdict,
        OFFSETS[best],
        certainty,
        percentiles(centre(mean), centre(again)),
        predicted,
        tuple(profiles),
    )
