"""Whether a model does a task: what it solves, against what chance does.

    solved   share of the clean prompts that the model solves
    chance   that of a model that does not know what was asked
    needed   (1 + chance) / 2, halfway from chance to all of them

    prompts with                       solved where                                        chance
    several right and wrong choices    the right ones have more probability than the wrong     1/2
    a distractor                       the answer has a higher logit than the distractor       1/2
    neither                            the answer is the most likely of V tokens               1/V

A model that solves fewer than are needed has no circuit for the task: what is found in it would be
one for something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from homolog.circuits.metrics import accuracy
from homolog.record.circuits import LOGIT_DIFFERENCE, PROBABILITY_DIFFERENCE, RANK

_SOLVES = {
    PROBABILITY_DIFFERENCE: "right choices above wrong ones",
    LOGIT_DIFFERENCE: "the answer above the wrong one",
    RANK: "the answer on top",
}


@dataclass(frozen=True)
class TaskAbility:
    """How well a model does a task.

    by        the metric that says what is solved
    accuracy  share of prompts with the answer on top of the whole vocabulary; with several right
              ones as solved
    """

    by: str
    solved: float
    chance: float
    accuracy: float

    @property
    def needed(self) -> float:
        """Least share of prompts, halfway from chance to all."""
        return (1 + self.chance) / 2

    @property
    def able(self) -> bool:
        """Whether the model does the task."""
        return self.solved >= self.needed

    @property
    def said(self) -> str:
        """The numbers in words."""
        against = f"{self.needed:.0%} needed, chance {self.chance:.1%}"
        share = f"it puts {_SOLVES[self.by]} in {self.solved:.0%} of the prompts ({against})"
        same = self.by != LOGIT_DIFFERENCE  # as what is solved
        return share if same else f"{share}, accuracy {self.accuracy:.1%}"

    def columns(self) -> dict[str, float | bool]:
        """As columns of `task_circuits`."""
        names = ("solved", "chance", "needed", "accuracy", "able")
        return {name: getattr(self, name) for name in names}


def task_ability(measured: Mapping[str, Tensor], n_tokens: int) -> TaskAbility:
    """From the metrics of the clean prompts, (prompt,) each; n_tokens: of the vocabulary, V."""
    right = float(accuracy(dict(measured)))
    for by in (PROBABILITY_DIFFERENCE, LOGIT_DIFFERENCE):
        if by in measured:
            return TaskAbility(by, float((measured[by] > 0).double().mean()), 0.5, right)
    return TaskAbility(RANK, right, 1 / n_tokens, right)
