"""Is a named circuit the whole story?  Faithfulness, completeness and minimality, by ablation.

For a circuit C among the nodes M of a model, let m(S) be the metric of a run in which every node
outside S is ablated (m(M) is the unedited run).  Then

    faithfulness  (m(C) - m({})) / (m(M) - m({}))             1: C does it all; NaN where both are 0
    completeness  |m(C - K) - m(M - K)|  for subsets K of C   0: nothing outside C does what K does
    minimality    max over K of |m(C - (K + v)) - m(C - K)|   0: C does not need the node v

Completeness and minimality follow [Wang 2022]; K is empty at first and then contains each node with
probability one half (subsets are exponentially many, so a small gap is not a proof).  The nodes are
all heads and MLPs of a Transformer and all mixers of a Mamba, or what the caller names.  What
ablation puts in their place: `ablation.py`.

[Wang 2022] "Interpretability in the Wild", arXiv 2211.00593.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from homolog.circuits.ablation import Ablation
from homolog.circuits.edges import nodes
from homolog.circuits.known import require_paths
from homolog.circuits.metrics import (
    Interval,
    interval,
    measure,
    percentiles,
    resampled_means,
)
from homolog.corpus.tasks.nearest import check_choice
from homolog.corpus.tasks.pairs import PromptPairs
from homolog.errors import InputError
from homolog.models.base import LanguageModel
from homolog.models.sites import Site
from homolog.record.circuits import LOGIT_DIFFERENCE, METRICS

# keeps this draw apart from others with the same seed
_SUBSETS = int.from_bytes(b"circuit subsets", "little")


@dataclass(frozen=True)
class Scoring:
    """How circuits are scored."""

    metric: str = LOGIT_DIFFERENCE
    """One of `record.circuits.METRICS`, as far as the task has it."""

    ablation: str = "mean"
    """"zero", "mean" or "resample", with the corrupt prompts as the source."""

    batch: int = 32
    """Prompts in one pass."""

    seed: int = 0
    """Of the subsets and of the resampled prompts."""


DEFAULTS = Scoring()


@dataclass(frozen=True)
class Faithfulness:
    """How much of what the model does the circuit does.

    circuit, model, nothing   the metric of the circuit, the whole model, and nothing
    """

    score: Interval
    circuit: Interval
    model: Interval
    nothing: Interval


@dataclass(frozen=True)
class Gap:
    """Completeness for one K: m(C - K), m(M - K), and the first less the second by prompt."""

    removed: tuple[Site, ...]
    circuit: Interval
    model: Interval
    difference: Interval


@dataclass(frozen=True)
class NodeEffect:
    """Minimality of one node v: m(C - (K + v)) - m(C - K) for the K where its mean is largest.

    K was chosen for that among those tried, so the value is biased away from 0.
    """

    node: Site
    removed: tuple[Site, ...]
    difference: Interval


class CircuitEvaluation:
    """Scores of one circuit on one task.  Runs are remembered: the three scores share them.

    circuit   its nodes, members of `universe`
    universe  all nodes; None takes `nodes(model)`.  Nodes at positions ("mixer_out.3@5") may be
    Raises `InputError`: a node outside the universe (with the nearest), an unknown metric or way.
    """

    def __init__(
        self,
        model: LanguageModel,
        pairs: PromptPairs,
        circuit: Collection[Site | str],
        scoring: Scoring = DEFAULTS,
        *,
        universe: Sequence[Site | str] | None = None,
    ) -> None:
        check_choice("metric", scoring.metric, METRICS)
        everything = nodes(model) if universe is None else universe
        self.universe = [Site.parse(site) for site in everything]
        self.circuit = [Site.parse(site) for site in circuit]
        for site in self.circuit:
            if site not in self.universe:
                near = difflib.get_close_matches(str(site), list(map(str, self.universe)), n=1)
                hint = f"The nearest is {near[0]!r}. " if near else ""
                requirement = f"it is none of the {len(self.universe)} nodes"
                remedy = f"{hint}nodes(model) lists them."
                raise InputError("circuit", str(site), requirement, remedy)
        self.model, self.pairs, self.scoring = model, pairs, scoring
        self._ablation = Ablation(
            require_paths(model), self.universe, scoring.ablation, pairs.corrupt, scoring.batch
        )
        self._known: dict[frozenset[Site], Tensor] = {}

    def read(self, n_subsets: int, more: Sequence[Collection[Site]] = ()) -> None:
        """Runs all that the scores with `n_subsets` ask for, and more, in one go: passes that agree
        in their first blocks are then one pass through these.
        """
        everything, circuit = set(self.universe), set(self.circuit)
        drawn = self._subsets(n_subsets)
        wanted = [s - k for s in (circuit, everything) for k in drawn]
        wanted += [circuit - (k | {v}) for v in circuit for k in drawn]
        wanted += [circuit - (k - {v}) for v in circuit for k in drawn]
        wanted += [everything - {v} for v in everything]
        self.metric_with([*wanted, [], *more])

    def metric_with(self, kept: Sequence[Collection[Site]]) -> Float[Tensor, "subset prompt"]:
        """m(S) for each subset S of the universe, float64: every node outside S is ablated."""
        wanted = [frozenset(subset) for subset in kept]
        todo = [subset for subset in dict.fromkeys(wanted) if subset not in self._known]
        if todo:
            starts = range(0, len(self.pairs), self.scoring.batch)
            values = torch.cat([self._chunk(start, todo) for start in starts], dim=1)
            self._known |= dict(zip(todo, values, strict=True))
        return torch.stack([self._known[subset] for subset in wanted])

    def shares(self, kept: Sequence[Collection[Site]]) -> Float[Tensor, " subset"]:
        """(m(S) - m({})) / (m(M) - m({})) for each subset S: 0 of no nodes, 1 of all."""
        m = self.metric_with([*kept, self.universe, []]).mean(-1)
        return _ratio(m[:-2] - m[-1], m[-2] - m[-1]) + 0.0  # no negative zeros

    def faithfulness(self, circuit: Collection[Site] | None = None) -> Faithfulness:
        """(m(C) - m({})) / (m(M) - m({})); the interval is of the ratio of the means.

        circuit   nodes of the universe in the place of C
        """
        own = self.circuit if circuit is None else circuit
        parts = self.metric_with([own, self.universe, []])
        alone, full, nothing = parts.mean(-1)
        again = resampled_means(parts, seed=self.scoring.seed)
        score = percentiles(
            _ratio(alone - nothing, full - nothing),
            _ratio(again[0] - again[2], again[1] - again[2]),
        )
        return Faithfulness(score, *(self._interval(part) for part in parts))

    def completeness(self, n_subsets: int = 10) -> list[Gap]:
        """The gaps of the empty K and of up to `n_subsets` random ones, largest in size first."""
        subsets = self._subsets(n_subsets)
        inside = self.metric_with([set(self.circuit) - k for k in subsets])
        outside = self.metric_with([set(self.universe) - k for k in subsets])
        gaps = [
            Gap(self._sorted(k), self._interval(c), self._interval(m), self._interval(c - m))
            for k, c, m in zip(subsets, inside, outside, strict=True)
        ]
        return sorted(gaps, key=lambda gap: -abs(float(gap.difference.value)))

    def minimality(self, n_subsets: int = 10) -> list[NodeEffect]:
        """What each node of the circuit does in it, largest in size first.

        The K are random ones without the node.
        """
        circuit, subsets = set(self.circuit), self._subsets(n_subsets)
        cases = [(v, k - {v}) for v in self.circuit for k in subsets]
        if not cases:
            return []
        without = self.metric_with([circuit - k - {v} for v, k in cases])
        with_it = self.metric_with([circuit - k for _, k in cases])
        differences = (without - with_it).reshape(len(self.circuit), len(subsets), -1)
        effects = []
        for v, own in zip(self.circuit, differences, strict=True):
            best = int(own.mean(-1).abs().argmax())
            removed = self._sorted(subsets[best] - {v})
            effects.append(NodeEffect(v, removed, self._interval(own[best])))
        return sorted(effects, key=lambda effect: -abs(float(effect.difference.value)))

    def alone(self) -> dict[str, Interval]:
        """m(M - v) - m(M) for every node v of the universe, by its name."""
        everything = set(self.universe)
        without = self.metric_with([everything - {v} for v in self.universe])
        changes = self._interval(without - self.metric_with([everything]))
        return {str(v): changes.at(i) for i, v in enumerate(self.universe)}

    def _chunk(self, start: int, subsets: list[frozenset[Site]]) -> Float[Tensor, "subset prompt"]:
        """The metric of some prompts for each subset: the values put in are read once for all."""
        rows, metric = slice(start, start + self.scoring.batch), self.scoring.metric
        pairs, values = self.pairs[rows], self._ablation.values(rows)
        _, clean = next(self._ablation.logits(pairs.clean, [[]], values))
        ablated = [[site for site in self.universe if site not in subset] for subset in subsets]
        by_subset: dict[int, Tensor] = {}
        for i, logits in self._ablation.logits(pairs.clean, ablated, values):
            measured = measure(logits, pairs, clean)
            check_choice(f"metric for {pairs.name}", metric, measured)
            by_subset[i] = measured[metric].double().cpu()
        return torch.stack([by_subset[i] for i in range(len(subsets))])

    def _subsets(self, n: int) -> list[frozenset[Site]]:
        """The empty set, and up to `n` different random subsets of the circuit."""
        generator = np.random.default_rng([_SUBSETS, self.scoring.seed])
        drawn = generator.random((n, len(self.circuit))) < 0.5
        random = (
            frozenset(site for site, inside in zip(self.circuit, row, strict=True) if inside)
            for row in drawn
        )
        return list(dict.fromkeys([frozenset(), *random]))

    def _sorted(self, subset: Collection[Site]) -> tuple[Site, ...]:
        return tuple(site for site in self.universe if site in subset)

    def _interval(self, values: Float[Tensor, "*patch prompt"]) -> Interval:
        return interval(values, seed=self.scoring.seed)


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    return torch.where(bottom == 0, torch.nan, top / bottom)
