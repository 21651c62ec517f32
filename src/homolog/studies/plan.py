"""What a recipe asks for: the models with their dictionaries, and the comparisons between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from homolog.errors import InputError
from homolog.storage.run_folder import RunFolder, folder_name
from homolog.studies.recipe import Recipe

ROTATED = "rotated"


@dataclass(frozen=True)
class Subject:
    """A model of the study.  `labels` name its trained dictionaries; `rotated`: a turned twin of the first."""

    ref: str
    role: str
    revision: str | None = None
    labels: tuple[str, ...] = ("sae",)
    rotated: bool = False

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
    """Features of `a` under `label_a` against those of `b` under `label_b`; kind "neuron" has no labels."""

    name: str
    a: Subject
    b: Subject
    kind: str = "sae"
    label_a: str = "sae"
    label_b: str = "sae"

    @property
    def key(self) -> str:
        """Unique in the study, and a file name."""
        return f"{self.name}.{self.a.name}@{self.label_a}.{self.b.name}@{self.label_b}"


@dataclass(frozen=True)
class Plan:
    """Models in the order in which they are worked on, and comparisons in the order of the report."""

    subjects: tuple[Subject, ...]
    comparisons: tuple[Comparison, ...]


def make_plan(recipe: Recipe) -> Plan:
    """Models and comparisons of a recipe.  InputError when two of its models would share a name."""
    controls = recipe.controls
    second = tuple(f"seed{seed}" for seed in recipe.sae.seeds[1:]) if controls.sae_seed else ()
    labels = ("sae", *second)
    a = Subject(recipe.pair.a, "model A", recipe.pair.revision_a, labels, controls.rotated)
    b = Subject(recipe.pair.b, "model B", recipe.pair.revision_b, labels, controls.rotated)
    others = {
        "random_a": (controls.random_a, "untrained twin of A"),
        "random_b": (controls.random_b, "untrained twin of B"),
        "seed_a": (controls.model_seed_a, "A from another seed"),
        "seed_b": (controls.model_seed_b, "B from another seed"),
    }
    extra = {key: Subject(ref, role) for key, (ref, role) in others.items() if ref is not None}
    subjects = (a, b, *extra.values())
    names = [s.name for s in subjects]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(
            "models", sorted(twice), "each model of a recipe needs a name of its own", "Name each model once."
        )
    found = [Comparison("main", a, b)]
    pairs = [(a, extra.get("random_b")), (b, extra.get("random_a"))]
    found += [Comparison("random-model", own, other) for own, other in pairs if other]
    if controls.rotated:
        found += [Comparison("rotated", a, b, label_b=ROTATED), Comparison("rotated", b, a, label_b=ROTATED)]
    found += [Comparison("sae-seed", own, own, label_b=label) for own in (a, b) for label in second[:1]]
    if controls.current_token:
        found += [Comparison("tokens", own, CURRENT_TOKEN) for own in (a, b)]
    pairs_seed = [(a, extra.get("seed_a")), (b, extra.get("seed_b"))]
    found += [Comparison("model-seed", own, other) for own, other in pairs_seed if other]
    if controls.neurons:
        found.append(Comparison("neurons", a, b, "neuron", "neuron", "neuron"))
        found += [
            Comparison("neurons-random", own, other, "neuron", "neuron", "neuron") for own, other in pairs if other
        ]
    return Plan(subjects, tuple(found))


def finished_report(recipe: Recipe, out: Path) -> Path | None:
    """The report of this recipe's run in `out`, if the run is complete and every file is as it was written; else None.

    Loads no models and no libraries for them, so that a run that is complete is answered at once.
    """
    try:
        run = RunFolder(out)
    except InputError:
        return None  # no run, or an unreadable one, which `RunFolder.open` rebuilds
    kept = [f"{kind} {subject.name}" for kind in ("dictionaries", "features") for subject in make_plan(recipe).subjects]
    kept += ["tables", "circuits", "report"] if recipe.circuits else ["tables", "report"]
    complete = run.recipe == recipe.values() and all(run.is_done(stage) for stage in kept)
    return run.report_folder / "index.html" if complete else None
