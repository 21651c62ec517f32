"""What a recipe asks for: the models with their dictionaries, and the comparisons between them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from homolog.errors import InputError
from homolog.pipeline.inputs import saes_input, text_input, tokenizer_input, weights_input
from homolog.record.inputs import Input
from homolog.record.names import folder_name
from homolog.record.recipe import Model, Recipe
from homolog.record.run_folder import RunFolder

ROTATED = "rotated"
INTERPRETED = ("interpretation", "relation")


@dataclass(frozen=True)
class Subject:
    """A model of the study.  `labels` name its dictionaries; `rotated`: a turned twin of the first."""

    ref: str
    role: str
    revision: str | None = None
    labels: tuple[str, ...] = ("sae",)
    rotated: bool = False
    saes: tuple[str, ...] = ()
    """Where its dictionaries come from, one a label, with {layer} for the block; none: they are
    trained.
    """

    @property
    def name(self) -> str:
        """As it stands in tables and folder names: "mamba-s0"."""
        return folder_name(self.ref)

    @property
    def encoded_labels(self) -> tuple[str, ...]:
        """All dictionaries whose features are matched."""
        return (*self.labels, ROTATED) if self.rotated else self.labels


CURRENT_TOKEN = Subject("current-token", "one feature for each token of the vocabulary, no model")


@dataclass(frozen=True)
class Comparison:
    """Features of `a` under `label_a` against those of `b` under `label_b`; kind "neuron" has no
    labels.
    """

    name: str
    a: Subject
    b: Subject
    kind: str = "sae"
    label_a: str = "sae"
    label_b: str = "sae"

    @property
    def name_b(self) -> str:
        """How tables name the features of `b`: "mamba-s0@seed1"."""
        return self.b.name if self.label_b in ("sae", "neuron") else f"{self.b.name}@{self.label_b}"

    @property
    def calibrated(self) -> bool:
        """Whether its matches are held against the null of the maximum: the result and its
        skylines.
        """
        return self.name in ("main", "sae-seed", "model-seed")

    @property
    def title(self) -> str:
        """For people: "mamba-s0 and transformer-s0 (main)"."""
        return f"{self.a.name} and {self.b.name} ({self.name})"

    @property
    def key(self) -> str:
        """Unique in the study, and a file name."""
        return f"{self.name}.{self.a.name}@{self.label_a}.{self.b.name}@{self.label_b}"


@dataclass(frozen=True)
class Plan:
    """The models compared, all models in the order in which they are worked on, comparisons in the
    report's order.
    """

    compared: tuple[Subject, ...]
    subjects: tuple[Subject, ...]
    comparisons: tuple[Comparison, ...]
    twins: dict[str, Subject]
    """The untrained twin of each compared model that has one, by the model's name."""


def make_plan(recipe: Recipe) -> Plan:
    """Models and comparisons of a recipe.  InputError when two of its models would share a name."""
    controls = recipe.controls
    models = [_compared(model, recipe) for model in recipe.models]
    twins = {
        m.untrained: Subject(m.untrained, f"untrained twin of {s.name}")
        for m, s in zip(recipe.models, models, strict=True)
        if m.untrained is not None
    }
    seeds = {
        m.other_seed: Subject(m.other_seed, f"{s.name} from another seed")
        for m, s in zip(recipe.models, models, strict=True)
        if m.other_seed is not None
    }
    subjects = (*models, *twins.values(), *seeds.values())
    names = [s.name for s in (*subjects, CURRENT_TOKEN)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(
            "models",
            sorted(twice),
            "each model of a recipe needs a name of its own",
            "Name each model once.",
        )
    untrained = [twins[m.untrained] if m.untrained else None for m in recipe.models]
    other_seed = [seeds[m.other_seed] if m.other_seed else None for m in recipe.models]
    pairs = list(itertools.combinations(range(len(models)), 2))
    ordered = [pair for i, j in pairs for pair in ((i, j), (j, i))]
    against_twins = [(models[i], twin) for i, j in ordered if (twin := untrained[j])]
    found = [Comparison("main", models[i], models[j]) for i, j in pairs]
    if controls.stability:
        found += [
            Comparison("main-seed", models[i], models[j], label_b=models[j].labels[1])
            for i, j in ordered
            if len(models[j].labels) > 1
        ]
    found += [Comparison("random-model", own, twin) for own, twin in against_twins]
    if controls.rotated:
        found += [Comparison("rotated", models[i], models[j], label_b=ROTATED) for i, j in ordered]
    if controls.sae_seed:
        found += [
            Comparison("sae-seed", own, own, label_b=own.labels[1])
            for own in models
            if len(own.labels) > 1
        ]
    if controls.current_token:
        found += [Comparison("tokens", own, CURRENT_TOKEN) for own in models]
    found += [
        Comparison("model-seed", own, seed)
        for own, seed in zip(models, other_seed, strict=True)
        if seed
    ]
    if controls.neurons:
        neuron = ("neuron", "neuron", "neuron")
        found += [Comparison("neurons", models[i], models[j], *neuron) for i, j in pairs]
        found += [Comparison("neurons-random", own, twin, *neuron) for own, twin in against_twins]
    by_name = {s.name: twin for s, twin in zip(models, untrained, strict=True) if twin}
    comparisons = tuple({comparison.key: comparison for comparison in found}.values())
    return Plan(tuple(models), subjects, comparisons, by_name)


def _compared(model: Model, recipe: Recipe) -> Subject:
    """A model that is compared, with the dictionaries that it brings or those of every seed."""
    given = [template for template in (model.saes, model.saes_seed) if template is not None]
    saes = tuple(t if t.startswith("hf:") else str(Path(t).expanduser().absolute()) for t in given)
    labels = ("sae", *(f"seed{seed}" for seed in recipe.sae.seeds[1:]))
    if saes:
        labels = ("sae", *(labels[1:2] or ("seed1",)))[: len(saes)]
    return Subject(model.ref, "compared", model.revision, labels, recipe.controls.rotated, saes)


def inputs_of(recipe: Recipe, plan: Plan, text: Callable[[], str]) -> list[Input]:
    """All that a run of the recipe reads; text: gives the hash of the tokens that it reads."""
    inputs = [
        text_input(recipe.corpus.source, text),
        *weights_of(plan.subjects, random=recipe.run.random_weights),
    ]
    for subject in plan.subjects:
        inputs.append(
            tokenizer_input(subject.ref, subject.revision, random=recipe.run.random_weights)
        )
        inputs += [saes_input(template) for template in subject.saes]
    return inputs


def weights_of(subjects: Sequence[Subject], *, random: bool = False) -> list[Input]:
    """The weights of models, in their order."""
    return [weights_input(s.ref, s.revision, random=random) for s in subjects]


def finished_report(recipe: Recipe, out: Path) -> Path | None:
    """The report of this recipe's run in `out`, if it is complete and all that it wrote and read is
    as it was.

    Loads no models and no libraries for them, so that a run that is complete is answered at once.
    """
    try:
        run = RunFolder(out)
    except InputError:
        return None  # no run, or an unreadable one, which `RunFolder.open` rebuilds
    plan = make_plan(recipe)
    kept = [
        f"{kind} {subject.name}"
        for kind in ("dictionaries", "features")
        for subject in plan.subjects
    ]
    kept += ["tables", *(INTERPRETED if recipe.interpretation else ())]
    kept += ["circuits", "report"] if recipe.circuits else ["report"]
    complete = (
        run.recipe == recipe.values()
        and not run.record.get("failed")
        and all(run.is_done(stage) for stage in kept)
    )
    complete = complete and run.reads_the_same(inputs_of(recipe, plan, str))
    return run.report_folder / "index.html" if complete else None
