"""The prompts of the induction task, and how well a model answers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from homolog.circuits.ability import TaskAbility
from homolog.circuits.metrics import accuracy, joined, measure
from homolog.corpus.tasks import PromptPairs, induction
from homolog.errors import InputError
from homolog.models.base import LanguageModel
from homolog.record.circuits import LOGIT_DIFFERENCE, PROBABILITY, REPLACE_B

METRIC = LOGIT_DIFFERENCE  # which sender is the key one: it does not move when all logits do
# share of prompts with the answer above the distractor that a model needs; chance is 0.5
ABLE = 0.75


@dataclass(frozen=True)
class Prompts:
    """How prompts are drawn.  The same seed gives the same clean prompts for every corruption."""

    n_prompts: int = 256
    """Prompts of every experiment."""

    length: int = 64
    """Tokens of a prompt."""

    repeat: int = 1
    """How many tokens at the end repeat those that end with A; 1 in the paper."""

    seed: int = 0
    """Root seed of the prompts and of the intervals."""

    batch: int = 64
    """Prompts in memory at a time."""

    def __len__(self) -> int:
        return self.n_prompts

    def pairs(self, model: LanguageModel, corruption: str) -> PromptPairs:
        """The prompts, after the token that the model's windows begin with where they do."""
        pairs = induction(
            model,
            self.n_prompts,
            seed=self.seed,
            length=self.length,
            repeat=self.repeat,
            corruption=corruption,
        )
        return pairs.begun(model.bos)


@dataclass(frozen=True)
class Ability:
    """How well a model does the task: means over prompts.

    preferred   share of prompts with the answer's logit above the distractor's; chance is 0.5
    accuracy    share of prompts with the answer on top of the whole vocabulary
    """

    preferred: float
    accuracy: float
    probability: float
    logit_difference: float

    @property
    def able(self) -> bool:
        return self.preferred >= ABLE and self.logit_difference > 0

    @property
    def said(self) -> str:
        """What the model does, in words."""
        return (
            f"it puts the answer above the wrong one in {self.preferred:.0%} of the prompts "
            f"({ABLE:.0%} needed, chance 50%), accuracy {self.accuracy:.1%}"
        )

    def columns(self) -> dict[str, float]:
        """As columns of a row."""
        return asdict(self)


OTHER_PROMPTS = "Repeat more tokens than one (8, say), or take another model."


class Unable(InputError):
    """The model cannot do the task: it has no circuit for it.  `ability` says how well it does."""

    def __init__(
        self, model: str, ability: Ability | TaskAbility, remedy: str = OTHER_PROMPTS
    ) -> None:
        needs = "a circuit needs a model that does the task"
        super().__init__("model", model, f"{needs}: {ability.said}", remedy)
        self.ability = ability


def ability(model: LanguageModel, prompts: Prompts) -> Ability:
    """How well the model answers clean prompts."""
    values = answers(model, prompts.pairs(model, REPLACE_B), prompts.batch)
    return Ability(
        float((values[METRIC] > 0).double().mean()),
        float(accuracy(values)),
        float(values[PROBABILITY].double().mean()),
        float(values[METRIC].double().mean()),
    )


def answers(model: LanguageModel, pairs: PromptPairs, batch: int) -> dict[str, Tensor]:
    """The metrics of the clean prompts, (prompt,) each."""
    parts: list[dict[str, Tensor]] = []
    for first in range(0, len(pairs), batch):
        part = pairs[first : first + batch]
        with torch.no_grad():
            logits = model.plain.run(part.clean, last_only=True).logits
        assert logits is not None
        parts.append(measure(logits[:, 0], part))
    return joined(parts)


def around(pairs: PromptPairs, name: str, offsets: Sequence[int]) -> dict[str, Tensor]:
    """Positions before and after a named one, by label; they stop at the prompt's ends."""
    first, last = pairs.n_begun, pairs.length - 1
    return {
        label(name, offset): (pairs.positions[name] + offset).clamp(first, last)
        for offset in offsets
    }


def around_columns(name: str, offsets: Sequence[int]) -> dict[str, Any]:
    """Columns of the effects table for senders made by `around`."""
    return {"position": [label(name, o) for o in offsets], "offset": list(offsets)}


def label(name: str, offset: int) -> str:
    """The position `offset` after a named one: "B", "B+1", "B-1"."""
    return name if offset == 0 else f"{name}{offset:+d}"
