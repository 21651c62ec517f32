"""At which offset does a token's information enter the state?  The Off-by-One test [Wang 2025].

On induction prompts a token X is replaced, and what each position around it carries is patched,
one position at a time, with everything else held:

    Mamba         the state write at X + offset, with its own decay, in each layer
    Transformer   key and value at X + offset, as the key head reads them from the end

e(offset) is the drop of the answer's logit difference.  X is B, what is copied, or A before it,
what is matched.  A model that is not shifted carries both where B stands: offset 0 of B, and 1 of
A.  It is off by one when they are written one position later.  Beside the measurement stand

    prediction    from the mixer alone: how much of X each tap of its convolution brings to where
                  the answer reads it (`Tracer.predicted`); tap k back is offset k
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

from homolog.circuits.effects import PathQuestion
from homolog.circuits.metrics import Interval, interval, percentiles, resampled_means
from homolog.circuits.prompts import METRIC, Prompts, around
from homolog.circuits.replay import Patched
from homolog.circuits.tracer import Tracer
from homolog.corpus.tasks import PromptPairs, ordinary_ids
from homolog.corpus.tasks.nearest import check_choice
from homolog.models.base import LanguageModel
from homolog.record.circuits import COPIED, REPLACED, SHIFT_PREFIX, UNSHIFTED

OFFSETS = (-1, 0, 1, 2, 3, 4)
SURE = 0.975
# keeps this draw apart from others with the same seed
_UNRELATED = int.from_bytes(b"unrelated", "little")


@dataclass(frozen=True)
class Profile:
    """What one layer (or head) shows, by offset.

    place       "write.5", or "z.2.3" for what that head reads
    effect      drop of the logit difference at each of `OFFSETS`, with intervals
    null        the same around an unrelated token
    predicted   share of each offset from the convolution alone; NaN where it predicts nothing
    """

    place: str
    effect: Interval
    null: Interval
    predicted: Tensor

    def rows(self) -> list[dict[str, Any]]:
        """One row per offset."""
        drops = [max(0.0, effect) for effect in self.effect.value.tolist()]
        total = float(self.effect.value.clamp_min(0).sum())
        return [
            {
                "place": self.place,
                "offset": offset,
                "share": drops[i] / total if total > 0 else float("nan"),
                "predicted_share": float(self.predicted[i]),
            }
            | self.effect.at(i).columns("effect")
            | self.null.at(i).columns("null")
            for i, offset in enumerate(OFFSETS)
        ]


@dataclass(frozen=True)
class OffByOne:
    """The verdict of a model on one token.

    token      "B", what is copied, or "A", what is matched
    verdict    "off by one", "no shift", "shift of N" or "undecided"
    offset     from the token, where the drop is largest, over all layers together
    certainty  share of resampled sets of prompts in which that offset has the largest drop
    centre     mean offset, weighted by the drops, with its interval
    predicted  offset with the largest predicted share, in the layer that carries most; None where
               nothing is predicted
    """

    model: str
    token: str
    verdict: str
    offset: int
    certainty: float
    centre: Interval
    predicted: int | None
    profiles: tuple[Profile, ...]

    def columns(self) -> dict[str, Any]:
        """The verdict as columns of a row, named as `SHIFT_PREFIX` has it."""
        own = {
            "verdict": self.verdict,
            "offset": self.offset,
            "certainty": self.certainty,
            "predicted_offset": self.predicted,
        } | self.centre.columns("centre")
        return {f"{SHIFT_PREFIX[self.token]}{name}": value for name, value in own.items()}


def off_by_one(
    model: LanguageModel,
    prompts: Prompts,
    key: str,
    token: str = COPIED,
    advance: Callable[[int], None] | None = None,
) -> OffByOne:
    """Run the test on a model that does the task.

    key       its key head (z.2.3), or its key state (state.5)
    token     which is replaced: "B" or "A"
    advance   told after each batch how many prompts are done, first those around the token
    Errors: InputError for another token, or an architecture without path patching.
    """
    check_choice("token", token, REPLACED)
    tracer = Tracer(model, prompts, advance)
    pairs = prompts.pairs(model, REPLACED[token])
    of = {REPLACED[token]: pairs, "an unrelated token": unrelated(model, pairs, prompts, token)}
    places = tracer.carriers(key)

    def ask(paths: Any, part: PromptPairs) -> Iterator[Patched]:
        """Every offset of every place, in that order."""
        at = around(part, token, OFFSETS)
        for place in places:
            yield from tracer.carried(paths, place, at)

    questions = [PathQuestion("off by one", name, ask) for name in of]
    # (place, offset, prompt): what each patch costs, around the token and around the unrelated one
    drop, null = (
        -effects.change(METRIC).unflatten(0, (len(places), len(OFFSETS)))
        for effects in tracer.measure(questions, of.__getitem__)
    )
    predicted = tracer.predicted(places, pairs, token, OFFSETS)
    profiles = [
        Profile(
            place,
            interval(drop[i], seed=prompts.seed),
            interval(null[i], seed=prompts.seed),
            predicted[i],
        )
        for i, place in enumerate(places)
    ]
    return _verdict(model.name, token, drop.sum(0), profiles, prompts.seed)


def unrelated(
    model: LanguageModel, pairs: PromptPairs, prompts: Prompts, name: str = COPIED
) -> PromptPairs:
    """The same prompts with another token replaced, called `name` in its turn.

    It is neither A nor B nor repeated.
    """
    generator = np.random.default_rng([_UNRELATED, prompts.seed])
    n, length = pairs.clean.shape
    place = torch.arange(length)[None].expand(n, -1)
    last, b = length - prompts.repeat, pairs.positions["B"][:, None]
    free = (place < last - 1) & ((place < b - prompts.repeat) | (place > b))
    free[:, : pairs.n_begun] = False
    chosen = torch.from_numpy(np.where(free.numpy(), generator.random((n, length)), -1).argmax(1))
    drawn = torch.from_numpy(generator.choice(ordinary_ids(model), (n, length + 3)))
    taken = torch.cat([pairs.clean, pairs.corrupt, pairs.answer[:, None]], 1)
    # the first that the prompt has not
    new = (drawn[:, :, None] != taken[:, None]).all(-1).float().argmax(1)
    corrupt = pairs.clean.clone()
    corrupt[torch.arange(n), chosen] = drawn[torch.arange(n), new]
    return replace(pairs, corrupt=corrupt, positions={**pairs.positions, name: chosen})


def _verdict(model: str, token: str, drop: Tensor, profiles: list[Profile], seed: int) -> OffByOne:
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
        shift = OFFSETS[best] - UNSHIFTED[token]
        verdict = {0: "no shift", 1: "off by one"}.get(shift, f"shift of {shift}")
    strongest = max(profiles, key=lambda p: float(p.effect.value.max()))
    known = not bool(strongest.predicted.isnan().any())
    predicted = OFFSETS[int(strongest.predicted.argmax())] if known else None
    return OffByOne(
        model,
        token,
        verdict,
        OFFSETS[best],
        certainty,
        percentiles(centre(mean), centre(again)),
        predicted,
        tuple(profiles),
    )
