"""Patches to numbers: what each sender does to the answer, prompt by prompt, with intervals over prompts.

An experiment asks one question of a batch of prompt pairs and gives back patched logits.  `measure_effects` asks it
batch after batch, keeps every metric of every prompt and drops the logits: memory does not grow with the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from homolog.circuits.metrics import interval, measure
from homolog.circuits.replay import Patched
from homolog.corpus.tasks import PromptPairs

Ask = Callable[[PromptPairs], tuple[Tensor, Iterable[Patched]]]
"""From a batch of pairs: clean logits (prompt, vocabulary) at the last position, and the patched ones."""


@dataclass(frozen=True)
class Effects:
    """What the senders of one experiment do.

    experiment   what was asked, in words that head a figure
    corruption   how corrupt prompts differ from clean ones
    receiver     "logits", or the component through which the patch reaches them
    senders      labels, in the order of the rows of `patched`
    clean        metric: (prompt,);   patched: metric: (sender, prompt)
    about        further columns of the table, the same for every sender, or one value a sender as a list
    """

    experiment: str
    corruption: str
    receiver: str
    senders: tuple[str, ...]
    clean: dict[str, Tensor]
    patched: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)

    def change(self, metric: str = "logit_difference") -> Tensor:
        """Patched minus clean, (sender, prompt)."""
        return self.patched[metric] - self.clean[metric]

    def of(self, sender: str, metric: str = "logit_difference") -> Tensor:
        """The change of one sender, (prompt,)."""
        return self.change(metric)[self.senders.index(sender)]

    def strongest(self, metric: str = "logit_difference") -> str:
        """The sender whose patch lowers the metric most, in the mean over prompts."""
        return self.senders[int(self.change(metric).mean(-1).argmin())]

    def rows(self, seed: int = 0) -> list[dict[str, Any]]:
        """One row a sender and metric: means over prompts, and the interval of the change."""
        found = []
        for metric, values in self.patched.items():
            mean, low, high = interval(self.change(metric), seed=seed)
            for i, sender in enumerate(self.senders):
                more = {key: value[i] if isinstance(value, list) else value for key, value in self.about.items()}
                found.append({
                    "experiment": self.experiment, "corruption": self.corruption, "sender": sender,
                    "receiver": self.receiver, "metric": metric, "clean": float(self.clean[metric].double().mean()),
                    "patched": float(values[i].double().mean()), "change": float(mean[i]), "change_lo": float(low[i]),
                    "change_hi": float(high[i]), "n_prompts": int(values.shape[-1]), **more,
                })  # fmt: skip
        return found


def measure_effects(
    pairs: PromptPairs,
    ask: Ask,
    *,
    experiment: str,
    corruption: str,
    receiver: str = "logits",
    batch: int = 64,
    about: dict[str, Any] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Effects:
    """Ask the question of `batch` pairs at a time; `advance` is told after each how many are done."""
    clean: dict[str, list[Tensor]] = {}
    patched: dict[str, list[Tensor]] = {}
    senders: tuple[str, ...] = ()
    with torch.no_grad():
        for first in range(0, len(pairs), batch):
            part = pairs[first : first + batch]
            logits, answers = ask(part)
            for name, value in measure(logits, part, logits).items():
                clean.setdefault(name, []).append(value.cpu())
            labels: list[str] = []
            found: dict[str, list[Tensor]] = {}
            for answer in answers:
                labels += answer.senders
                for name, value in measure(answer.logits, part, logits).items():
                    found.setdefault(name, []).append(value.cpu())
            senders = tuple(labels)
            for name, values in found.items():
                patched.setdefault(name, []).append(torch.cat(values))
            if advance is not None:
                advance(len(part))
    return Effects(
        experiment, corruption, receiver, senders,
        {name: torch.cat(values) for name, values in clean.items()},
        {name: torch.cat(values, dim=-1) for name, values in patched.items()}, about or {},
    )  # fmt: skip
