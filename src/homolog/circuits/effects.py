"""Patches to numbers: what each sender does to the answer, with intervals over prompts.

A question is put to batch after batch of prompt pairs and answered with patched logits.
`measure_effects` puts several at once: the clean pass of a batch serves all of them.  It keeps
every metric of every prompt and drops the logits, so that memory grows neither with the vocabulary
nor with the number of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from homolog.circuits.metrics import interval, joined, measure
from homolog.circuits.replay import Patched
from homolog.corpus.tasks import PromptPairs
from homolog.record.circuits import LOGIT_DIFFERENCE


@dataclass(frozen=True)
class PathQuestion:
    """What is asked of every batch: `ask(paths, pairs)` gives the patched logits of some senders.

    experiment   in words that head a figure
    corruption   how corrupt prompts differ from clean ones
    receiver     "logits", or the component through which the patch reaches them
    about        further columns of the table: one value for all senders, or a list, one for each
    """

    experiment: str
    corruption: str
    ask: Callable[[Any, PromptPairs], Iterable[Patched]]
    receiver: str = "logits"
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Effects:
    """What the senders of one question do.

    senders      labels, in the order of the rows of `patched`
    clean        metric: (prompt,);   patched: metric: (sender, prompt)
    """

    question: PathQuestion
    senders: tuple[str, ...]
    clean: dict[str, Tensor]
    patched: dict[str, Tensor]

    def change(self, metric: str = LOGIT_DIFFERENCE) -> Tensor:
        """Patched minus clean, (sender, prompt)."""
        return self.patched[metric] - self.clean[metric]

    def strongest(self, metric: str = LOGIT_DIFFERENCE) -> str:
        """The sender whose patch lowers the metric most, in the mean over prompts."""
        return self.senders[int(self.change(metric).mean(-1).argmin())]

    def rows(self, seed: int = 0) -> list[dict[str, Any]]:
        """One row per sender and metric: means over prompts, and the interval of the change."""
        about = self.question.about.items()
        rows = []
        for metric, values in self.patched.items():
            changes = interval(self.change(metric), seed=seed)
            clean = float(self.clean[metric].double().mean())
            for i, sender in enumerate(self.senders):
                row = {
                    "experiment": self.question.experiment,
                    "corruption": self.question.corruption,
                    "sender": sender,
                    "receiver": self.question.receiver,
                    "metric": metric,
                    "clean": clean,
                    "patched": float(values[i].double().mean()),
                    "n_prompts": int(values.shape[-1]),
                } | changes.at(i).columns("change")
                rows.append(row | {k: v[i] if isinstance(v, list) else v for k, v in about})
        return rows


def measure_effects(
    questions: Sequence[PathQuestion],
    pairs: Callable[[str], PromptPairs],
    paths: Callable[[Tensor, Tensor], Any],
    batch: int = 64,
    advance: Callable[[int], None] | None = None,
) -> list[Effects]:
    """Answers to all questions, in their order.

    pairs     the prompt pairs of a corruption; all corruptions have the same clean prompts
    paths     makes `Paths` of clean and corrupt prompts
    advance   told after each question and batch how many prompts are done
    """
    of = {question.corruption: pairs(question.corruption) for question in questions}
    n = len(next(iter(of.values())))
    answered: list[list[Effects]] = [[] for _ in questions]
    with torch.no_grad():
        for first in range(0, n, batch):
            parts = {name: prompts[first : first + batch] for name, prompts in of.items()}
            clean = next(iter(parts.values())).clean
            same = all(torch.equal(part.clean, clean) for part in parts.values())
            assert same, "clean prompts differ"
            asked: dict[str, Any] = {}
            for question, effects in zip(questions, answered, strict=True):
                part = parts[question.corruption]
                if question.corruption not in asked:
                    known = next(iter(asked.values()), None)
                    asked[question.corruption] = (
                        paths(clean, part.corrupt) if known is None else known.against(part.corrupt)
                    )
                effects.append(_effects(question, asked[question.corruption], part))
                if advance is not None:
                    advance(len(part))
    return [_of_all(effects) for effects in answered]


def _effects(question: PathQuestion, replay: Any, pairs: PromptPairs) -> Effects:
    """Those of one batch; the logits of some senders are dropped before the next ones come."""
    clean = measure(replay.logits, pairs, replay.logits)
    answers = [
        (some.senders, measure(some.logits, pairs, replay.logits))
        for some in question.ask(replay, pairs)
    ]
    senders = tuple(sender for some, _ in answers for sender in some)
    patched = joined([measured for _, measured in answers], axis=0)
    return Effects(question, senders, joined([clean]), patched)


def _of_all(parts: Sequence[Effects]) -> Effects:
    """Effects of batches, as those of all prompts."""
    clean, patched = joined([part.clean for part in parts]), joined([p.patched for p in parts])
    return Effects(parts[0].question, parts[0].senders, clean, patched)
