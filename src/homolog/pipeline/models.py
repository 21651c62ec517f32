"""The models of a recipe, and all that a run of it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from homolog.errors import InputError
from homolog.pipeline.inputs import (
    saes_input,
    task_inputs,
    text_input,
    tokenizer_input,
    weights_input,
)
from homolog.record.comparisons import COMPARISONS
from homolog.record.inputs import Input
from homolog.record.names import model_name
from homolog.record.recipe import Model, Recipe
from homolog.record.recipe.models import RANDOM
from homolog.record.sides import CURRENT_TOKEN, MAIN_LABEL, Models, StudyModel
from homolog.reference import parted


def models_of(recipe: Recipe) -> Models:
    """The models of a recipe.  InputError when two of them would share a name."""
    named = recipe.named
    compared = tuple(_compared(model, recipe) for model in named)
    seed = recipe.run.seed
    untrained = {
        str(model.name): _untrained(entry, seed)
        for entry in recipe.models
        if entry.untrained is not None
        for model in entry.named
    }
    other_seed = {
        str(model.name): StudyModel(
            model.other_seed,
            f"{model.name} from another seed",
            bos=model.bos,
            layers=model.layers,
            site=model.site,
            called=model_name(model.other_seed),
        )
        for model in named
        if model.other_seed is not None
    }
    models = Models(compared, untrained, other_seed, recipe.chosen)
    controls = (*untrained.values(), *other_seed.values())
    _require_names((*compared, CURRENT_TOKEN), controls)
    for key in ("bos", "layers", "site"):
        shared = [(a, b) for a in controls for b in controls if a.ref == b.ref]
        if several := {a.name for a, b in shared if getattr(a, key) != getattr(b, key)}:
            requirement = "it is a control of models that are read in different ways"
            remedy = f"Set the same {key} for all of them, or name another control."
            raise InputError(f"models.{key}", sorted(several), requirement, remedy)
    return models


def _untrained(entry: Model, seed: int) -> StudyModel:
    """The untrained twin of a model: another one, or its configuration with weights of the seed.

    One for all revisions of a model, from the configuration of the first.
    """
    model = entry.named[0]
    ref, role = str(entry.untrained), f"untrained twin of {entry.called}"
    where = {"called": model_name(ref), "revision": None}
    if ref == RANDOM:
        ref, role = f"{parted(model.ref)[0]}#untrained={seed}", f"{role}, with random weights"
        where = {"called": f"{entry.called}-untrained", "revision": model.revision}
    settings = tuple(model.untrained_sae.items())
    own = {"bos": model.bos, "layers": model.layers, "site": model.site}
    return StudyModel(ref, role, settings=settings, **own, **where)


def _require_names(compared: Sequence[StudyModel], controls: Sequence[StudyModel]) -> None:
    """InputError where two models share a name; a model may be a control of several."""
    once = {(model.name, model.ref, model.revision): model for model in controls}
    names = [model.name for model in (*compared, *once.values())]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        requirement = "each model of a recipe needs a name of its own"
        remedy = "Give models a `name`, and name no model twice; a control is called by its folder."
        raise InputError("models", twice, requirement, remedy)


def revisions_of(recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """The models with revisions, by their common name: each revision, and what it is called."""
    return {
        entry.called: [
            {"name": model.name, "revision": revision}
            for model, revision in zip(entry.named, entry.revisions, strict=True)
        ]
        for entry in recipe.models
        if entry.revisions is not None
    }


def left_out(recipe: Recipe) -> list[str]:
    """The settings of comparisons that the recipe turns off."""
    return [key for key, on in recipe.controls.values().items() if not on]


def _compared(model: Model, recipe: Recipe) -> StudyModel:
    """A model that is compared, with the dictionaries that it brings or those of every seed."""
    given = [template for template in (model.saes, model.saes_seed) if template is not None]
    saes = tuple(t if t.startswith("hf:") else str(Path(t).expanduser().absolute()) for t in given)
    labels = (MAIN_LABEL, *(f"seed{seed}" for seed in recipe.sae.seeds[1:]))
    if saes:
        labels = (MAIN_LABEL, *(labels[1:2] or ("seed1",)))[: len(saes)]
    off = left_out(recipe)
    derived = tuple(c.name for c in COMPARISONS if c.derived is not None and c.setting not in off)
    return StudyModel(
        model.ref,
        "compared",
        model.revision,
        labels,
        derived,
        saes,
        tuple(model.sae.items()),
        model.bos,
        layers=model.layers,
        site=model.site,
        called=str(model.name),
    )


def inputs_of(
    recipe: Recipe, models: Models, weights: Sequence[Input], text: Callable[[], str]
) -> list[Input]:
    """All that a run of the recipe reads; text: gives the hash of the tokens that it reads."""
    random = recipe.run.random_weights
    inputs = [text_input(recipe.corpus.source, text), *weights]
    for model in models.all:
        inputs.append(tokenizer_input(model.ref, model.revision, random=random))
        inputs += [saes_input(template) for template in model.saes]
    return inputs + ([] if recipe.circuits is None else task_inputs(recipe.circuits))


def files_read(recipe: Recipe) -> list[Path]:
    """All files that a run of the recipe, or of a cell of its grid, reads."""
    models = models_of(recipe)
    weights = weights_of(models.all, random=recipe.run.random_weights)
    return [file for item in inputs_of(recipe, models, weights, str) for file in item.files]


def weights_of(models: Sequence[StudyModel], *, random: bool = False) -> list[Input]:
    """The weights of models, in their order."""
    return [weights_input(model.ref, model.revision, random=random) for model in models]
