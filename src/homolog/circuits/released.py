"""The released circuit numbers of Pythia-160M and mamba-130m beside ours.

`released.json` holds the numbers that came with [Wang 2025] (arXiv 2410.06672), with what was
patched and in which prompts.  `compare` repeats each experiment on a model of that shape: the same
prompts up to their random draw, the same layers, heads and positions, means over prompts of the
answer's logit and probability.  Where our method differs from the released one, the row's note says
how.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from homolog.circuits.effects import Effects, PathQuestion, measure_effects
from homolog.circuits.known import require_paths
from homolog.circuits.paths import Paths
from homolog.circuits.replay import Patched
from homolog.corpus.tasks import PromptPairs, induction
from homolog.errors import InputError
from homolog.models.base import LanguageModel

DATA = Path(__file__).with_suffix(".json")
PYTHIA, MAMBA = "EleutherAI/pythia-160m", "state-spaces/mamba-130m"
CLEAN = "clean"
_NAN = float("nan")


@dataclass(frozen=True)
class Experiment:
    """One released experiment.

    name, model         as in the data; `model` is the one that the numbers are of
    axes                of the numbers: layer; layer and head; inputs of the convolution; position
    sender, note        what is patched, and how our method differs
    corruption          how corrupt prompts differ, one of `corpus.tasks.CORRUPTIONS`
    length, first_index of the prompts: tokens, and A's index where it is fixed
    clean               metric: mean over clean prompts, where released
    patched, change     metric: means with each sender patched, nested by `axes`, or their changes
                        where only those are
    layer, receiver, write_after_A, inputs, positions    what the patch goes through, as far as the
                        experiment has it
    """

    name: str
    model: str
    axes: list[str]
    sender: str
    corruption: str
    length: int
    first_index: int | None
    note: str
    clean: dict[str, float]
    patched: dict[str, list[Any]] = field(default_factory=dict)
    change: dict[str, list[Any]] = field(default_factory=dict)
    layer: int | None = None
    receiver: str | None = None
    write_after_A: int = 0
    inputs: dict[str, list[int]] = field(default_factory=dict)
    positions: list[int] = field(default_factory=list)

    @property
    def places(self) -> list[str]:
        """Names of the senders, in the order of the flattened numbers."""
        if self.axes == ["inputs"]:
            return list(self.inputs)
        if self.axes == ["position"]:
            return [f"write.{self.layer}@{position}" for position in self.positions]
        kind = "z" if "head" in self.axes else self.name.split()[0]
        shape = np.shape(next(iter(self.patched.values())))
        return [
            ".".join([kind, *map(str, index)]) for index in itertools.product(*map(range, shape))
        ]

    def ask(self, paths: Any, part: PromptPairs) -> Iterable[Patched]:
        """The patched logits of a batch, senders in the order of `places`."""
        after_a = part.positions["A"] + self.write_after_A
        match self.axes, self.name.split():
            case ["inputs"], _:
                return paths.taps_to_write(f"y.{self.layer}", after_a, self.inputs)
            case ["position"], _:
                named = zip(self.places, self.positions, strict=True)
                at = {place: torch.full((len(part),), p) for place, p in named}
                return paths.writes_to_logits(f"y.{self.layer}", at)
            case ["layer"], ["state", *_]:
                return paths.states_to_logits()
            case ["layer"], _:
                return paths.readouts_to_logits()
        if self.receiver is None:
            return paths.readouts_to_logits()
        return paths.parts_to_part(self.receiver, {"": part.positions["B"]})


@functools.cache
def experiments() -> tuple[Experiment, ...]:
    """All released experiments, of both models."""
    data = json.loads(DATA.read_text(encoding="utf-8"))
    return tuple(Experiment(**one) for one in data["experiments"])


def released_for(model: LanguageModel) -> tuple[Experiment, ...]:
    """The experiments released for a model of this shape.  InputError when there are none."""
    name = None
    known = require_paths(model)
    kinds = {(mixer.kind, mixer.n_heads) for mixer in known.mixers()}
    if kinds == {("attention", 12)} and model.n_layers == 12:
        name = PYTHIA
    if kinds == {("selective scan", 1)} and model.n_layers == 24:
        name = MAMBA
    if name is None:
        both = f"{PYTHIA} (12 layers of 12 heads) and {MAMBA} (24 layers)"
        requirement = f"numbers were released for {both}"
        raise InputError("model", model.name, requirement, "Compare one of these two.")
    return tuple(experiment for experiment in experiments() if experiment.model == name)


def compare(
    model: LanguageModel,
    n_prompts: int = 2048,
    seed: int = 0,
    batch: int = 64,
    advance: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Repeat the released experiments; one row for each released number.

    n_prompts   of every experiment; the released means are over 2,048 or 65,536 prompts
    advance     told after each batch of an experiment how many prompts are done

    A row has experiment, place ("clean", a site, or the patched inputs), metric (logit or
    probability of the answer), released, ours and deviation = ours - released; released_change,
    our_change and change_deviation, those of the patched mean minus the clean one; and note.  NaN
    where the release has no such number.
    Errors: InputError for a model of another shape.
    """
    chosen, rows = released_for(model), []
    paths = functools.partial(Paths, require_paths(model))
    draw = functools.partial(induction, model, n_prompts, seed=seed)
    # experiments whose clean prompts are the same
    for (length, at), group in itertools.groupby(chosen, lambda e: (e.length, e.first_index)):
        own = list(group)
        questions = [PathQuestion(one.name, one.corruption, one.ask) for one in own]
        pairs = functools.partial(draw, length=length, first_index=at)
        by_name = {one.corruption: pairs(corruption=one.corruption) for one in own}
        answers = measure_effects(questions, by_name.__getitem__, paths, batch, advance)
        for experiment, effects in zip(own, answers, strict=True):
            rows += _rows(experiment, effects, batch)
    return rows


def _rows(experiment: Experiment, effects: Effects, batch: int) -> list[dict[str, Any]]:
    assert list(effects.senders) == experiment.places
    clean = {metric: float(_mean(values, batch)) for metric, values in effects.clean.items()}
    row = functools.partial(_row, experiment)
    rows = [
        row(CLEAN, metric, (value, clean[metric]), (_NAN, _NAN))
        for metric, value in experiment.clean.items()
    ]
    for metric, values in (experiment.patched or experiment.change).items():
        base = experiment.clean.get(metric, _NAN)
        ours = _mean(effects.patched[metric], batch).tolist()
        numbers = np.ravel(values).tolist()
        for place, number, our in zip(experiment.places, numbers, ours, strict=True):
            released, change = (number, number - base) if experiment.patched else (_NAN, number)
            rows.append(row(place, metric, (released, our), (change, our - clean[metric])))
    return rows


def _row(
    experiment: Experiment,
    place: str,
    metric: str,
    value: tuple[float, float],
    change: tuple[float, float],
) -> dict[str, Any]:
    """A number and its change, theirs and ours each, and ours less theirs."""
    row: dict[str, Any] = {"experiment": experiment.name, "note": experiment.note}
    row |= {"place": place, "metric": metric}
    (released, ours), (released_change, our_change) = value, change
    row |= {"released": released, "ours": ours, "deviation": ours - released}
    row |= {"released_change": released_change, "our_change": our_change}
    return row | {"change_deviation": our_change - released_change}


def _mean(values: Tensor, batch: int) -> Tensor:
    """Over prompts, (..., prompt), batch by batch."""
    sums = [part.contiguous().double().sum(-1) for part in values.split(batch, -1)]
    return functools.reduce(torch.add, sums) / values.shape[-1]
