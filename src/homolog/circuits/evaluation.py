"""Is a named circuit the whole story?  Faithfulness, completeness and minimality, by ablation of
all other nodes.

For a circuit C among the nodes M of a model, let m(S) be the metric of a run in which every node
outside S is ablated (m(M) is the unedited run).  Then

    faithfulness = (m(C) - m({})) / (m(M) - m({}))             1: the circuit does it all; NaN where both are 0
    completeness: |m(C - K) - m(M - K)| for subsets K of C     0: what K does is done by nothing outside the circuit
    minimality:   max over K of |m(C - (K + v)) - m(C - K)|    0 for a node v that the circuit does not need

Completeness and minimality follow [Wang 2022]; K is empty at first and then contains each node with
probability one half (subsets are exponentially many, so a small gap is not a proof).  The nodes are
all heads and MLPs of a Transformer and all mixers of a Mamba, or what the caller names.  Ablation
puts in the place of a node's output

    zero      nothing
    mean      its mean over the corrupt prompts, position by position
    resample  its value in the corrupt prompt of the same pair

A head is ablated at z, which is the same as at its output: that is linear in z.

[Wang 2022] "Interpretability in the Wild", arXiv 2211.00593.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from homolog.axes import Tokens
from homolog.circuits.metrics import METRICS, interval, measure, percentiles, resampled_means
from homolog.corpus.tasks.nearest import check_choice
from homolog.corpus.tasks.pairs import PromptPairs
from homolog.errors import InputError
from homolog.models.base import LanguageModel
from homolog.models.edits import Edit, Resample, Zero
from homolog.models.runs import Run
from homolog.models.sites import Site
from homolog.models.tokens import TokensLike, as_tokens
from homolog.models.transformer import Transformer

HOWS = ("zero", "mean", "resample")
_SUBSETS = int.from_bytes(
    b"circuit subsets", "little"
)  # keeps this draw apart from others with the same seed


def nodes(model: LanguageModel) -> list[Site]:
    """The parts whose outputs sum up to the residual stream: heads and MLPs of every block, or its
    mixer.
    """
    if not isinstance(model, Transformer):
        return [Site("mixer_out", layer) for layer in range(model.n_layers)]
    return [
        site
        for layer in range(model.n_layers)
        for site in (
            *(Site("head_out", layer, head) for head in range(model.n_heads)),
            Site("mlp_out", layer),
        )
    ]


def ablated_logits(
    model: LanguageModel,
    tokens: TokensLike,
    ablate: Collection[Site | str],
    how: str = "zero",
    source: TokensLike | None = None,
    batch: int = 32,
) -> Float[Tensor, "batch vocabulary"]:
    """Logits at the last position with the nodes `ablate` ablated.

    ablate  nodes as in `nodes(model)`, at one position each if the site has one ("mlp_out.3@-1")
    source  prompts whose values are put there, for how="mean" (any number) and "resample" (one for each of `tokens`)
    batch   prompts in one pass
    Raises `InputError` for unknown sites and ways, positions out of range, a missing source.
    """
    tokens, source = as_tokens(tokens), None if source is None else as_tokens(source, "source")
    sites = [Site.parse(site) for site in ablate]
    if source is not None and how == "resample" and source.shape != tokens.shape:
        raise InputError(
            "source",
            tuple(source.shape),
            f"resampling takes a prompt for each of {tuple(tokens.shape)}",
            "Pass as many.",
        )
    values = _Values(model, sites, how, source, batch)
    rows = range(0, len(tokens), batch)
    chunks = (
        _last_logits(model, tokens[r : r + batch], _edits(sites, values.at(slice(r, r + batch))))
        for r in rows
    )
    return torch.cat(list(chunks))


class Estimate(NamedTuple):
    """A value with its 95 % interval over prompts."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Faithfulness:
    """How much of what the model does the circuit does, and the metric of circuit, model and
    nothing.
    """

    score: Estimate
    circuit: Estimate
    model: Estimate
    nothing: Estimate


@dataclass(frozen=True)
class Gap:
    """Completeness for one K: m(C - K), m(M - K), and the first minus the second, prompt by prompt."""

    removed: tuple[Site, ...]
    circuit: Estimate
    model: Estimate
    difference: Estimate


@dataclass(frozen=True)
class NodeEffect:
    """Minimality of one node v: m(C - (K + v)) - m(C - K) for the K where its mean is largest in
    size.

    K was chosen for that among those tried, so the value is biased away from 0.
    """

    node: Site
    removed: tuple[Site, ...]
    difference: Estimate


class CircuitEvaluation:
    """Scores of one circuit on one task.  Runs are remembered, so that the three scores share them.

    circuit   its nodes, members of `universe`
    metric    one of `metrics.METRICS`, as far as the task has it
    how       "zero", "mean" or "resample", with the corrupt prompts as the source
    universe  all nodes; None takes `nodes(model)`.  Nodes at positions ("mixer_out.3@5") are allowed
    batch     prompts in one pass
    seed      of the subsets and of the resampled prompts
    Raises `InputError`: a node outside the universe (with the nearest), an unknown metric or way.
    """

    def __init__(
        self,
        model: LanguageModel,
        pairs: PromptPairs,
        circuit: Collection[Site | str],
        *,
        metric: str = "logit_difference",
        how: str = "mean",
        universe: Sequence[Site | str] | None = None,
        batch: int = 32,
        seed: int = 0,
    ) -> None:
        check_choice("metric", metric, METRICS)
        self.universe = [
            Site.parse(site) for site in (nodes(model) if universe is None else universe)
        ]
        self.circuit = [Site.parse(site) for site in circuit]
        for site in self.circuit:
            if site not in self.universe:
                near = difflib.get_close_matches(str(site), list(map(str, self.universe)), n=1)
                hint = f"The nearest is {near[0]!r}. " if near else ""
                raise InputError(
                    "circuit",
                    str(site),
                    f"it is none of the {len(self.universe)} nodes",
                    f"{hint}nodes(model) lists them.",
                )
        self.model, self.pairs, self.metric, self.batch, self.seed = (
            model,
            pairs,
            metric,
            batch,
            seed,
        )
        self._values = _Values(model, self.universe, how, pairs.corrupt, batch)
        self._known: dict[frozenset[Site], Tensor] = {}

    def metric_with(self, kept: Sequence[Collection[Site]]) -> Float[Tensor, "subset prompt"]:
        """m(S) for each subset S of the universe, float64: every node outside S is ablated."""
        wanted = [frozenset(subset) for subset in kept]
        todo = [subset for subset in dict.fromkeys(wanted) if subset not in self._known]
        if todo:
            values = torch.cat(
                [self._chunk(start, todo) for start in range(0, len(self.pairs), self.batch)], dim=1
            )
            self._known |= dict(zip(todo, values, strict=True))
        return torch.stack([self._known[subset] for subset in wanted])

    def faithfulness(self) -> Faithfulness:
        """(m(C) - m({})) / (m(M) - m({})); the interval is of the ratio of the means."""
        parts = self.metric_with([self.circuit, self.universe, []])
        circuit, full, nothing = parts.mean(-1)
        again = resampled_means(parts, seed=self.seed)
        score = percentiles(
            _ratio(circuit - nothing, full - nothing),
            _ratio(again[0] - again[2], again[1] - again[2]),
        )
        return Faithfulness(_estimate(*score), *(self._interval(part) for part in parts))

    def completeness(self, n_subsets: int = 10) -> list[Gap]:
        """The gaps of the empty K and of up to `n_subsets` random ones, largest in size first."""
        subsets = self._subsets(n_subsets)
        inside = self.metric_with([set(self.circuit) - k for k in subsets])
        outside = self.metric_with([set(self.universe) - k for k in subsets])
        gaps = [
            Gap(self._sorted(k), self._interval(c), self._interval(m), self._interval(c - m))
            for k, c, m in zip(subsets, inside, outside, strict=True)
        ]
        return sorted(gaps, key=lambda gap: -abs(gap.difference.value))

    def minimality(self, n_subsets: int = 10) -> list[NodeEffect]:
        """What each node of the circuit does in it, largest in size first; the K are random ones
        without the node.
        """
        circuit, subsets = set(self.circuit), self._subsets(n_subsets)
        cases = [(v, k - {v}) for v in self.circuit for k in subsets]
        without = self.metric_with([circuit - k - {v} for v, k in cases])
        with_it = self.metric_with([circuit - k for _, k in cases])
        differences = (without - with_it).reshape(len(self.circuit), len(subsets), -1)
        effects = []
        for v, own in zip(self.circuit, differences, strict=True):
            best = int(own.mean(-1).abs().argmax())
            effects.append(
                NodeEffect(v, self._sorted(subsets[best] - {v}), self._interval(own[best]))
            )
        return sorted(effects, key=lambda effect: -abs(effect.difference.value))

    def _chunk(self, start: int, subsets: list[frozenset[Site]]) -> Float[Tensor, "subset prompt"]:
        """The metric of some prompts for each subset: the values put in are read once for all."""
        rows = slice(start, start + self.batch)
        pairs = self.pairs[rows]
        values = self._values.at(rows)
        clean = _last_logits(self.model, pairs.clean, [])
        found = []
        for subset in subsets:
            ablate = [site for site in self.universe if site not in subset]
            edits = _edits(ablate, values)
            logits = _last_logits(self.model, pairs.clean, edits) if edits else clean
            measured = measure(logits, pairs, clean)
            check_choice(f"metric for {pairs.name}", self.metric, measured)
            found.append(measured[self.metric].double().cpu())
        return torch.stack(found)

    def _subsets(self, n: int) -> list[frozenset[Site]]:
        """The empty set, and up to `n` different random subsets of the circuit."""
        generator = np.random.default_rng([_SUBSETS, self.seed])
        drawn = generator.random((n, len(self.circuit))) < 0.5
        random = (
            frozenset(site for site, inside in zip(self.circuit, row, strict=True) if inside)
            for row in drawn
        )
        return list(dict.fromkeys([frozenset(), *random]))

    def _sorted(self, subset: Collection[Site]) -> tuple[Site, ...]:
        return tuple(site for site in self.universe if site in subset)

    def _interval(self, values: Float[Tensor, " prompt"]) -> Estimate:
        return _estimate(*interval(values, seed=self.seed))


class _Values:
    """What ablation puts in the place of the sites' outputs."""

    def __init__(
        self,
        model: LanguageModel,
        sites: Sequence[Site],
        how: str,
        source: Tokens | None,
        batch: int,
    ) -> None:
        check_choice("ablation", how, HOWS)
        if how != "zero" and source is None:
            raise InputError(
                "source",
                None,
                f"ablation by {how} takes values from other prompts",
                "Pass corrupt ones.",
            )
        self._model, self._how, self._source = model, how, source
        self._places = list(dict.fromkeys(_place(site) for site in sites))
        if how == "mean" and source is not None:
            totals: dict[Site, Tensor] = {}
            for chunk in source.split(batch):
                for place, value in self._read(chunk).captured.items():
                    totals[place] = totals.get(place, 0) + value.double().sum(0, keepdim=True)
            self._means = Run(
                None, {place: (total / len(source)) for place, total in totals.items()}
            )

    def at(self, rows: slice) -> Run | None:
        """For the prompts `rows`: every place as a run captures it (a mean has one row for all);
        None for zeros.
        """
        if self._how == "zero" or self._source is None:
            return None
        return self._means if self._how == "mean" else self._read(self._source[rows])

    def _read(self, tokens: Tokens) -> Run:
        with torch.no_grad():
            return self._model.run(tokens, capture=self._places, last_only=True)


def _place(site: Site) -> Site:
    """The whole activation that a node is part of."""
    return Site("z" if site.kind == "head_out" else site.kind, site.layer)


def _edits(ablate: Iterable[Site], values: Run | None) -> list[Edit]:
    """The edits that ablate: one for all heads of a block that have the same positions."""
    positions: dict[tuple[Site, int | None], set[int | None]] = {}
    for site in ablate:
        positions.setdefault((_place(site), site.head), set()).add(site.position)
    heads: dict[tuple[Site, tuple[int, ...] | None, bool], list[int]] = {}
    for (place, head), found in positions.items():
        at = (
            None
            if None in found
            else tuple(sorted(position for position in found if position is not None))
        )
        heads.setdefault((place, at, head is None), []).extend([] if head is None else [head])
    return [
        Zero(place, positions=at, heads=own or None)
        if values is None
        else Resample(place, positions=at, heads=own or None, source=values)
        for (place, at, _), own in heads.items()
    ]


def _last_logits(
    model: LanguageModel, tokens: Tokens, edits: Sequence[Edit]
) -> Float[Tensor, "batch vocabulary"]:
    with torch.no_grad():
        logits = model.run(tokens, edits=edits, last_only=True).logits
    assert logits is not None
    return logits[:, -1]


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    return torch.where(bottom == 0, torch.nan, top / bottom)


def _estimate(value: Tensor, low: Tensor, high: Tensor) -> Estimate:
    return Estimate(float(value), float(low), float(high))
