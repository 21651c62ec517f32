"""What the experiments of all architectures share: prompts, one call for one experiment, roles."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from homolog.circuits.effects import Effects, PathQuestion, measure_effects
from homolog.circuits.metrics import Interval, interval
from homolog.circuits.prompts import METRIC, Prompts, answers
from homolog.circuits.replay import Patched, Replay
from homolog.corpus.tasks import PromptPairs
from homolog.models.base import LanguageModel
from homolog.models.sites import Site

OFFSETS = (-1, 0, 1, 2, 3)  # positions around a token that are patched one by one
# of what the whole corruption costs: what a patch must cost to be named beside the strongest
SHARE = 0.05
ALL = "all"  # the sender that stands for several together


@dataclass(frozen=True)
class Role:
    """A component that plays a part in the circuit.

    component   a head (z.2.3), a layer's state or scan output (state.5, y.5), the convolution tap
                that reads a position (conv_taps.5@A)
    evidence    which patch shows it
    change      of the logit difference by that patch, with its interval
    share       of what the whole corruption costs: change / (corrupt - clean logit difference)
    """

    role: str
    component: str
    evidence: str
    change: Interval
    share: float

    def columns(self) -> dict[str, Any]:
        """As columns of a row."""
        return {
            "role": self.role,
            "component": self.component,
            "evidence": self.evidence,
            "share": self.share,
        } | self.change.columns("change")


class Tracer(ABC):
    """The experiments on one model.

    architecture   the adapter whose models it traces
    paths          makes the path patching of clean and corrupt prompts
    """

    architecture: ClassVar[type[LanguageModel]]
    paths: ClassVar[type[Replay]]

    def __init__(
        self, model: Any, prompts: Prompts, advance: Callable[[int], None] | None = None
    ) -> None:
        self.model, self.prompts, self.advance = model, prompts, advance
        self.effects: list[Effects] = []
        self._costs: dict[str, float] = {}

    @abstractmethod
    def trace(self) -> tuple[str, list[Role]]:
        """The key component and the roles, after all experiments."""

    @abstractmethod
    def universe(self) -> list[Site]:
        """Where information moves between positions: what a circuit is chosen from."""

    @abstractmethod
    def named(self, roles: Sequence[Role]) -> set[str]:
        """Names of the sites of the universe that play a role."""

    @abstractmethod
    def carriers(self, key: str) -> list[str]:
        """Where the Off-by-One test looks; `key` is the key component."""

    @abstractmethod
    def carried(self, paths: Any, place: str, at: dict[str, Tensor]) -> Iterator[Patched]:
        """What that place carries of each of the positions `at` (label: (prompt,)), patched."""

    def predicted(self, place: str, pairs: PromptPairs, offsets: Sequence[int]) -> Tensor:
        """Share of each offset in what that place carries, by its weights; NaN: they tell none."""
        return torch.full((len(offsets),), torch.nan)

    def measure(
        self, questions: Sequence[PathQuestion], pairs: Callable[[str], PromptPairs]
    ) -> list[Effects]:
        """The effects of some questions, asked together of those pairs."""
        paths = functools.partial(self.paths, self.model)
        return measure_effects(questions, pairs, paths, self.prompts.batch, self.advance)

    def ask(self, *questions: PathQuestion) -> list[Effects]:
        """The same of the task's prompts; all effects are kept."""
        effects = self.measure(questions, lambda name: self.prompts.pairs(self.model, name))
        self.effects += effects
        return effects

    def cost(self, effects: Effects) -> float:
        """What all of the corruption costs: corrupt minus clean logit difference, in the mean."""
        corruption = effects.question.corruption
        if corruption not in self._costs:
            pairs = self.prompts.pairs(self.model, corruption)
            swapped = replace(pairs, clean=pairs.corrupt)
            corrupt = answers(self.model, swapped, self.prompts.batch)[METRIC]
            change = (corrupt - effects.clean[METRIC]).double().mean()
            self._costs[corruption] = float(change)
        return self._costs[corruption]

    def roles(
        self, role: str, effects: Effects, evidence: str, named: Callable[[str], str] = str
    ) -> list[Role]:
        """The strongest sender of an experiment, and those that cost at least `SHARE`, in order.

        named   gives the component of a sender's label
        """
        cost = self.cost(effects)
        changes = interval(effects.change(METRIC), seed=self.prompts.seed)
        roles: list[Role] = []
        for i in changes.value.argsort().tolist():
            if effects.senders[i] == ALL:
                continue
            change = changes.at(i)
            share = float(change.value) / cost
            if roles and (share < SHARE or float(change.high) >= 0):
                break
            roles.append(Role(role, named(effects.senders[i]), evidence, change, share))
        return roles
