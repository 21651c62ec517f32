"""What a study will cost, before it begins: time, memory and disk of every stage.

All of it is arithmetic on the recipe and the sizes of its models.  With L blocks, d = d_model,
m = d_sae, L0 active features on a token and T tokens,

    forward        T B block, with the loss T (L block + read_out)    B blocks, both of them timed
    training       T (2 d m / products + 2 d m ADAM / batch + m CHOICE + L0 d SPARSE)  a dictionary
    encoding       T (2 d m / products + m CHOICE + L0 ENTRY)                          a dictionary
    a pair, a pass m m' CELL + T (L0 L0' + L0 D' + L0' D) ADD + 2 T D D' / products64 + PASS

where D features fire on more than an eighth of the tokens and are met densely.  Of this machine
passes of the models and matrix products are timed (`pace`); the constants are seconds on two
threads of the machine named beside them, and shared by as many as there are.  What an analysis
takes is said where it stands (`analyses.work`).

How sparse dictionaries will be is not known where a penalty decides it: L0 is taken for d / 16, and
the range of a plan is what half and three times of that would make of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from homolog.analyses import ANALYSES
from homolog.analyses.work import CELL, Work
from homolog.models.size import ModelSize, size_of
from homolog.pipeline.analyses import title_of
from homolog.pipeline.dictionaries import (
    BYTES_A_WEIGHT,
    POOL,
    REHEARSED_L0,
    sae_settings,
    tokens_to_learn,
)
from homolog.pipeline.models import left_out, models_of
from homolog.pipeline.pace import Pace, PassPace
from homolog.pipeline.sinks import MASK
from homolog.record.comparisons import Planned, planned
from homolog.record.process import memory_share
from homolog.record.recipe import Recipe
from homolog.record.recipe.dictionaries import TARGET
from homolog.record.sides import CURRENT_TOKEN, NEURON, Side, StudyModel

# Seconds on two threads of an AMD EPYC, from the stages of the built-in recipes there.
ADAM = 3e-9  # a weight, at a step
CHOICE = 1e-9  # which features are active: a feature, at a token
SPARSE = 0.06e-9  # an active feature and a dimension, in training
ENTRY = 60e-9  # an activation that is written, with its statistics
ADD = 1e-9  # products of two activations on a token, both sparse (the same page)
ADD_DENSE = 2e-9  # the same where one is of a feature met densely
TURNED = 0.6  # share of d_model that similarity of spaces keeps of a stream
PASS = 0.02  # of a pair of layers, at least
RESAMPLED = 50e-9  # an activation, in intervals
BEYOND = 25e-9  # an activation, in what partners explain beyond controls
PER_FEATURE = 0.8e-3  # a feature of the explorer
PER_PAGE = 1.5  # the page of a pair of models

DENSE = 1 / 8  # `matching.columns.DENSE_DENSITY`
L0_SHARE = 1 / 16  # of d_model, where a penalty decides: 8 of 128, 26 of 576 and 122 of 640 seen
DENSER = 1.8  # L0 goes with this power of 1 / l1: 5 to 105 of 128 as l1 falls from 4 to 1
LOW, HIGH = 0.5, 3.0
TRAINED_BYTES = 14  # of a weight in training (docs/methods-dictionaries.md)
GIB = 2**30
PROCESS = 0.9 * GIB  # bytes of a process with torch, numba and polars
BYTES_A_FEATURE = 9_000  # its examples, and its page of the explorer
BYTES_A_ROW = 35  # of the table of matches


@dataclass(frozen=True)
class Stage:
    """One stage.  title: of the progress display; kind: its row in a plan.

    memory: bytes at its peak.  running: bytes on disk until the run ends, or until the next model
    where `brief`.  kept: bytes on disk afterwards.
    """

    title: str
    kind: str
    seconds: float
    memory: float = PROCESS
    running: float = 0.0
    kept: float = 0.0
    brief: bool = False


@dataclass(frozen=True)
class Costs:
    """The costs of a recipe's study.  times: what L0 is taken for, beside what is expected."""

    recipe: Recipe
    pace: Pace
    times: float = 1.0

    @cached_property
    def models(self) -> tuple[StudyModel, ...]:
        return models_of(self.recipe).all

    @cached_property
    def sizes(self) -> dict[str, ModelSize]:
        random = self.recipe.run.random_weights
        return {m.name: size_of(m.ref, m.revision, random=random) for m in self.models}

    @cached_property
    def _plans(self) -> list[Planned]:
        return planned(models_of(self.recipe), left_out(self.recipe))

    @cached_property
    def stages(self) -> list[Stage]:
        """Every stage, in order."""
        stages = [stage for model in self._sought for stage in self._of_sinks(model)]
        stages += [stage for model in self.models for stage in self._of_model(model)]
        stages += self._comparisons()
        stages += [self._verdicts(), *self._analyses()]
        seconds = PER_PAGE * (1 + len(models_of(self.recipe).pairs))
        seconds += PER_FEATURE * self._n_features if self.recipe.interpretation else 0.0
        kept = BYTES_A_FEATURE * self._n_features if self.recipe.interpretation else 0.0
        memory = PROCESS + self._columns_held
        return [*stages, Stage("write the report", "report", seconds, memory, kept=kept)]

    # Models

    def width(self, model: StudyModel) -> int:
        """d_sae of its dictionaries."""
        return sae_settings(self.recipe, model).width(self.sizes[model.name].d_model)

    def l0(self, model: StudyModel) -> float:
        """Active features on a token, expected."""
        sae, width = sae_settings(self.recipe, model), self.width(model)
        if self.recipe.run.random_weights:
            return REHEARSED_L0
        set_by = sae.of_kind
        if known := set_by.get("k") or set_by.get(TARGET):
            return float(known)
        expected = L0_SHARE * self.sizes[model.name].d_model
        own, usual = set_by.get("l1"), self.recipe.sae.of_kind.get("l1")
        denser = (usual / own) ** DENSER if own and usual else 1.0  # by how much l1 is lower
        return min(width / 4, expected * denser * self.times)

    def n_chosen(self, model: StudyModel) -> int:
        """Its blocks that have dictionaries."""
        return len(model.blocks(self.sizes[model.name].n_layers))

    def pass_pace(self, model: StudyModel) -> PassPace:
        """What a pass of the model takes."""
        return self.pace.of_pass(self.sizes[model.name], self.recipe.corpus.context)

    def forward(self, model: StudyModel, tokens: float, *, loss: bool = False) -> float:
        """Seconds of a pass over tokens, up to the last block that has dictionaries.

        loss: through the whole model, with the unembedding.
        """
        size, pace = self.sizes[model.name], self.pass_pace(model)
        if loss:
            return tokens * (size.n_layers * pace.block + pace.read_out)
        return tokens * (model.blocks(size.n_layers)[-1] + 1) * pace.block

    def _losses(self, model: StudyModel, tokens: float) -> float:
        """Seconds of what the dictionaries of each label cost the model: the loss of the text with
        each block's residuals replaced, and with their mean there.
        """
        size, pace = self.sizes[model.name], self.pass_pace(model)
        rests = [size.n_layers - 1 - block for block in model.blocks(size.n_layers)]
        once = tokens * sum(rest * pace.block + pace.read_out for rest in rests)
        return 2 * len(model.labels) * once

    @property
    def _sought(self) -> list[StudyModel]:
        """Models whose sinks are looked for; random weights have none, and twins no say."""
        untrained = {model.name for model in models_of(self.recipe).untrained.values()}
        if self.recipe.corpus.sinks != MASK or self.recipe.run.random_weights:
            return []
        return [model for model in self.models if model.name not in untrained]

    def _of_sinks(self, model: StudyModel) -> Iterator[Stage]:
        """The second only where norms tell of some, which is not known before."""
        corpus, memory = self.recipe.corpus, PROCESS + 4.0 * self.sizes[model.name].n_parameters
        for what, tokens in (("norms", corpus.quality_tokens), ("sinks", corpus.match_tokens)):
            title = f"{what} of {model.name}"
            yield Stage(title, "residuals", self.forward(model, tokens), memory)

    def _encoding(self, model: StudyModel, tokens: float) -> float:
        weights = self.sizes[model.name].d_model * self.width(model)
        scattered = self.width(model) * CHOICE + self.l0(model) * ENTRY
        _, shared = self.pace.dictionaries
        return tokens * (2 * weights / self.pace.training + scattered * shared)

    def _training(self, model: StudyModel) -> float:
        sae, size = sae_settings(self.recipe, model), self.sizes[model.name]
        weights = size.d_model * self.width(model)
        tokens = tokens_to_learn(self.recipe, model) * sae.epochs
        scattered = (
            2 * weights * ADAM / sae.batch
            + self.width(model) * CHOICE
            + self.l0(model) * size.d_model * SPARSE
        )
        dense, shared = self.pace.dictionaries
        return tokens * (2 * dense * weights / self.pace.training + scattered * shared)

    def _of_model(self, model: StudyModel) -> Iterator[Stage]:
        corpus, sae, size = self.recipe.corpus, self.recipe.sae, self.sizes[model.name]
        layers = self.n_chosen(model)
        n_own, n_all = layers * len(model.labels), layers * len(model.encoded_labels)
        weights = 2 * size.d_model * self.width(model)
        loaded, shard = 4.0 * size.n_parameters, 2.0 * (self.recipe.run.shard_mib << 20)
        quality = corpus.quality_tokens
        measured = 2 * n_own * self._encoding(model, quality) + self._losses(model, quality)
        measured += self.forward(model, quality) + self.forward(model, quality, loss=True)
        streams, residual = sae.stream == POOL, 2 if sae.residuals == "bfloat16" else 4
        learnt = tokens_to_learn(self.recipe, model)
        tokens = sae.pool_tokens if streams else learnt
        stored = tokens * layers * size.d_model * residual
        memory, seconds = PROCESS + loaded, 0.0
        if streams and not model.saes:
            seconds = self.forward(model, learnt * sae.epochs)
        elif not model.saes:
            title, kind = f"read {model.name}", "residuals"
            read = self.forward(model, learnt)
            yield Stage(title, kind, read, memory + shard, running=stored, brief=True)
        at_once = min(n_own, max(len(model.labels), self._budget // (weights * BYTES_A_WEIGHT)))
        pages = 0 if model.saes else min(stored, self._budget / 2)  # given back when needed
        memory += at_once * weights * TRAINED_BYTES + pages
        title = f"{'load' if model.saes else 'train'} dictionaries of {model.name}"
        seconds += measured + (0 if model.saes else n_own * self._training(model))
        yield Stage(title, "dictionaries", seconds, memory, kept=4.0 * weights * n_all)
        tokens = corpus.match_tokens
        seconds = self.forward(model, tokens) + n_all * self._encoding(model, tokens)
        kept = n_all * tokens * (8 * self.l0(model) + 12)  # where and how much; begins of rows
        memory = PROCESS + loaded + shard + 4.0 * weights
        yield Stage(f"encode {model.name}", "features", seconds, memory, kept=kept)

    @property
    def _budget(self) -> int:
        return memory_share()

    # Comparisons

    def _comparisons(self) -> Iterator[Stage]:
        """Every comparison; neurons are read once, before the first that needs them."""
        read: set[str] = set()
        for plan in self._plans:
            if plan.a.label == NEURON:
                for model in (plan.a.model, plan.b.model):
                    if model.name not in read:
                        yield self._neurons_read(model)
                    read.add(model.name)
            yield self._comparison(plan)

    def _comparison(self, plan: Planned) -> Stage:
        title, matching = f"match {plan.title}", self.recipe.matching
        if plan.a.label == NEURON:
            return self._neurons(plan, title)
        passes = 1 + (matching.null_exchanges if plan.comparison.calibrated else 0)
        a, b = (self._side(side) for side in (plan.a, plan.b))
        pairs, tokens = a.n_layers * b.n_layers, self.recipe.corpus.match_tokens
        seconds = pairs * passes * self._pass(a, b, tokens)
        seconds += tokens * self._entries(a, b) * RESAMPLED * self.pace.shared
        held = 0.0
        if "residuals" in plan.comparison.spaces:
            seconds += self._spaces(plan)
            held = self._streams(plan)
        columns = [side.n_layers * self._columns(side) for side in (a, b)]
        rows = a.n_layers * a.width + b.n_layers * b.width
        found = pairs * (a.width + b.width) * (16 + 4 * (passes - 1))
        memory = PROCESS + max(held, min(sum(columns), max(self._budget, max(columns))))
        running = found + sum(columns) / max(1, len(self.models))  # prepared once, met often
        return Stage(title, "matching", seconds, memory, running, kept=BYTES_A_ROW * rows)

    def _pass(self, a: _Sparse, b: _Sparse, tokens: float) -> float:
        """Over a pair of layers."""
        scattered = a.width * b.width * CELL + tokens * a.sparse * b.sparse * ADD
        scattered += tokens * (a.sparse * b.n_dense + b.sparse * a.n_dense) * ADD_DENSE
        dense = 2 * tokens * a.n_dense * b.n_dense / self.pace.double
        return scattered * self.pace.shared + dense + PASS

    def _side(self, side: Side) -> _Sparse:
        if side.model == CURRENT_TOKEN:
            return _Sparse(1, next(iter(self.sizes.values())).n_vocabulary, 1.0)
        return _Sparse(self.n_chosen(side.model), self.width(side.model), self.l0(side.model))

    def _columns(self, side: _Sparse) -> float:
        tokens = self.recipe.corpus.match_tokens
        return tokens * (16 * side.l0 + 4 * side.n_dense)

    def _entries(self, a: _Sparse, b: _Sparse) -> float:
        """Activations on a token that both directions read of own features and partners."""
        return (a.n_layers + b.n_layers) * (a.l0 + b.l0)

    @property
    def _neuron_tokens(self) -> int:
        return self.recipe.corpus.neuron_tokens or self.recipe.corpus.match_tokens

    def _neurons_read(self, model: StudyModel) -> Stage:
        seconds = self.forward(model, self._neuron_tokens)
        memory = PROCESS + 4.0 * self.sizes[model.name].n_parameters
        return Stage(f"neurons of {model.name}", "neurons", seconds, memory)

    def _neurons(self, plan: Planned, title: str) -> Stage:
        sides, tokens = (plan.a.model, plan.b.model), self._neuron_tokens
        layers, widths = zip(
            *((self.n_chosen(m), self.sizes[m.name].n_neurons) for m in sides),
            strict=True,
        )
        products = 2.0 * tokens * math.prod(layers) * math.prod(widths)
        seconds = products / self.pace.double
        values = [4.0 * tokens * n * width for n, width in zip(layers, widths, strict=True)]
        memory, running = PROCESS + min(sum(values), self._budget), values[1]
        kept = BYTES_A_ROW * sum(n * width for n, width in zip(layers, widths, strict=True))
        return Stage(title, "neurons", seconds, memory, running, kept)

    def _spaces(self, plan: Planned) -> float:
        tokens = self.recipe.matching.space_tokens
        models = (plan.a.model, plan.b.model)
        sizes = [(self.n_chosen(m), self.sizes[m.name].d_model) for m in models]
        turned = sum(layers * d_model**2 for layers, d_model in sizes) * (1 + TURNED)
        pairs = math.prod(layers * TURNED * d_model for layers, d_model in sizes)
        spectra = sum(10 * layers * d_model**3 for layers, d_model in sizes)
        spectra += 10 * math.prod(n for n, _ in sizes) * min(TURNED * d for _, d in sizes) ** 3
        read = sum(self.forward(model, tokens) for model in models)
        products = 2 * tokens * (turned + pairs) / self.pace.products
        return read + products + spectra / self.pace.double if tokens else 0.0

    def _streams(self, plan: Planned) -> float:
        """Bytes of the streams of the second model, beside what is kept of those of the first."""
        tokens = min(self.recipe.matching.space_tokens, self.recipe.corpus.match_tokens)
        sizes = [
            self.n_chosen(side.model) * self.sizes[side.model.name].d_model
            for side in (plan.a, plan.b)
        ]
        return 4.0 * tokens * (TURNED * sizes[0] + sizes[1])

    def _neighbours(self, tokens: float) -> float:
        """Seconds in which each layer of every compared model meets the next, once."""
        sides = [self._side(Side(model)) for model in models_of(self.recipe).compared]
        return sum((side.n_layers - 1) * self._pass(side, side, tokens) for side in sides)

    def _verdicts(self) -> Stage:
        """What partners explain beyond the controls of each direction, and intervals."""
        tokens, entries = self.recipe.corpus.match_tokens, 0.0
        for plan in self._plans:
            if plan.comparison.role in ("result", "baseline") and plan.a.label != NEURON:
                entries += self._entries(self._side(plan.a), self._side(plan.b))
        seconds = 1 + tokens * entries * BEYOND * self.pace.shared
        return Stage("write the tables", "verdicts", seconds, PROCESS + self._columns_held)

    @cached_property
    def _columns_held(self) -> float:
        """Bytes of the columns of every model, as many as may be held; little is given back."""
        sides = [(self._side(Side(model)), len(model.derived)) for model in self.models]
        held = [(1 + n) * side.n_layers * self._columns(side) / 2 for side, n in sides]
        return min(self._budget, sum(held))

    # Analyses

    @property
    def _n_features(self) -> int:
        compared = models_of(self.recipe).compared
        return sum(self.n_chosen(m) * self.width(m) for m in compared)

    def _analyses(self) -> Iterator[Stage]:
        """Of all that measure something: what they say themselves, and a second."""
        work, memory = self._work, PROCESS + self._columns_held
        for analysis in ANALYSES:
            if analysis.measure is None or not analysis.wanted(self.recipe):
                continue
            kind = "circuits" if analysis.page == "circuits" else "interpretation"
            each = [(name,) for name in work.n_blocks] if analysis.units_may_fail else [()]
            for unit in each:
                seconds = 1.0 + analysis.seconds(work, *unit)
                yield Stage(title_of(analysis, unit), kind, seconds, memory)

    @property
    def _work(self) -> Work:
        chosen, tokens = models_of(self.recipe), self.recipe.corpus.match_tokens
        sides = [self._side(Side(model)) for model in chosen.compared]

        def read(tokens: float, *names: str) -> float:
            through = [m for m in chosen.compared if not names or m.name in names]
            return sum(self.forward(model, tokens, loss=True) for model in through)

        return Work(
            self.recipe,
            n_features=self._n_features,
            activations=tokens * sum(side.n_layers * side.l0 for side in sides),
            n_models=len(chosen.compared),
            n_directions=len(chosen.directions),
            n_blocks={m.name: self.sizes[m.name].n_layers for m in chosen.compared},
            shared=self.pace.shared,
            read=read,
            mapped=lambda: self._spaces(self._plans[0]),
            neighbours=self._neighbours,
        )


def expected_seconds(recipe: Recipe, pace: Pace) -> dict[str, float]:
    """Seconds of each stage by its title, for the time left.

    Nothing where they cannot be told: a run does not end for want of an estimate.
    """
    try:
        return {stage.title: stage.seconds for stage in Costs(recipe, pace).stages}
    except Exception:  # whatever the configuration of an unknown architecture raises
        return {}


@dataclass(frozen=True)
class _Sparse:
    """One side of a comparison: layers of so many features, of which l0 are active on a token."""

    n_layers: int
    width: int
    l0: float

    @property
    def n_dense(self) -> float:
        """Features that fire on more than `DENSE` of the tokens, for frequencies that fall off
        exponentially about their mean.
        """
        return self.width * math.exp(-self._bound)

    @property
    def sparse(self) -> float:
        """Active features on a token without those."""
        return self.l0 * (1 - (1 + self._bound) * math.exp(-self._bound))

    @property
    def _bound(self) -> float:
        return DENSE * self.width / self.l0
