"""Recipes from files, values and options, checked down to the settings of their kind of dictionary.

load_recipe("demo")         a built-in recipe by name
load_recipe("my.toml")      a file
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homolog.corpus.tasks.asked import check_tasks
from homolog.dictionaries.kinds import KINDS, Kind, kind_of, parse
from homolog.errors import InputError
from homolog.pipeline.cells import cells_of, named_in_grid
from homolog.record.built_in import recipe_bytes
from homolog.record.recipe import CircuitRecipe, Dictionaries, Recipe, SaeRecipe
from homolog.record.recipe.dictionaries import SPARSITY, TARGET
from homolog.record.settings import option

EXPANSION = 6.0
"""Features per dimension where `homolog sae train` is given no number: 768 for the zoo."""
ANY_WIDTH = 1 << 30  # where the number of features depends on the model


def load_recipe(ref: str | Path) -> Recipe:
    """Read a built-in recipe by name or a TOML file by path.

    Raises `InputError` when there is no such recipe, and for TOML errors, unknown keys and unusable
    values.
    """
    data = recipe_bytes(ref)
    try:
        values = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        requirement = f"it must be TOML: {error}"
        raise InputError("recipe", str(ref), requirement, "Mend that place.") from error
    return parse_recipe({"name": Path(ref).stem} | values, str(ref))


def parse_recipe(values: Mapping[str, Any], source: str) -> Recipe:
    """A recipe from tables of values; `source` says in errors where they came from."""
    recipe = Recipe.parse(values, source)
    _check_dictionaries(recipe, source)
    if recipe.circuits is not None:
        try:
            check_tasks(recipe.circuits)
        except InputError as error:
            raise error.about(f"{source}: circuits.{error.field}") from error
    for cell in cells_of(recipe, source) if recipe.grid is not None else ():
        try:
            _check_dictionaries(cell.recipe, source)
        except InputError as error:
            raise named_in_grid(error, cell.number, source) from error
    return recipe


def _check_dictionaries(recipe: Recipe, source: str) -> None:
    """InputError for settings of dictionaries that their kind does not have, or lacks."""
    sae, needed = recipe.sae, _kind(recipe.sae, f"{source}: sae.kind").sparsity
    others = [key for key in SPARSITY if key not in (needed, TARGET)]
    given = [key for key in (needed, TARGET) if key in sae.of_kind]
    if len(given) != 1 or any(key in sae.of_kind for key in others):
        requirement = f'kind "{sae.kind}" needs {needed} or {TARGET}, and no {" or ".join(others)}'
        remedy = f"Give {needed} or {TARGET} in [sae], and none of the others."
        raise InputError(f"{source}: sae", sae.of_kind, requirement, remedy)
    _check_kind(sae, f"{source}: sae.")
    for number, model in enumerate(recipe.models):
        for key in ("sae", "untrained_sae"):
            _check_kind(sae.with_own(getattr(model, key)), f"{source}: models.{number}.{key}.")


def parse_circuits(values: Mapping[str, Any]) -> CircuitRecipe:
    """A recipe of circuits from values, as the command line gives them.  Raises `InputError`."""
    recipe = CircuitRecipe.parse(values, "circuits")
    check_tasks(recipe.circuits)
    return recipe


def parse_saes(**values: Any) -> SaeRecipe:
    """A recipe of dictionaries from values by name, as the command line gives them; None: default.

    Raises InputError, with the option's name, for values that cannot be and for a sparsity of
    another kind.
    """
    try:
        recipe = SaeRecipe.parse({key: v for key, v in values.items() if v is not None})
    except InputError as error:
        raise error.about(option(error.field)) from error
    own = _kind(recipe, "--kind").sparsity
    if recipe.d_sae is not None and recipe.expansion is not None:
        requirement = "--d-sae says the number of features"
        raise InputError("--expansion", recipe.expansion, requirement, "Give one of both.")
    if recipe.tokens < recipe.batch:
        requirement = f"a step takes {recipe.batch}"
        raise InputError("--tokens", recipe.tokens, requirement, "Give more, or less --batch.")
    for key, given in recipe.of_kind.items():
        if kinds := [kind.name for kind in KINDS.values() if kind.sparsity == key != own]:
            belongs = " or ".join(kinds)
            raise InputError(
                option(key),
                given,
                f"it belongs to {belongs}, and --kind is {recipe.kind}",
                f"Give {option(own)}, or --kind {belongs}.",
            )
    try:
        _check_kind(recipe, "")
    except InputError as error:
        raise error.about(option(error.field)) from error
    given = recipe.d_sae is not None or recipe.expansion is not None
    return recipe if given else recipe.changed(expansion=EXPANSION)


def sparsity_of(recipe: Dictionaries, d_model: int) -> float:
    """The value, given or by default, that decides how sparse the dictionaries are."""
    return float(getattr(parse(recipe.config(d_model)), kind_of(recipe.kind).sparsity))


def _kind(recipe: Dictionaries, field: str) -> Kind:
    """The recipe's kind.  InputError for an unknown one."""
    try:
        return kind_of(recipe.kind)
    except InputError as error:
        raise error.about(field) from error


def _check_kind(recipe: Dictionaries, prefix: str) -> None:
    """InputError for keys that the recipe's kind does not have, and values that it cannot."""
    fields = kind_of(recipe.kind).Settings.model_fields
    for key, value in recipe.of_kind.items():
        if key not in fields:
            known = list(dict.fromkeys([*type(recipe).model_fields, *fields]))
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            remedy = f"Did you mean {nearest!r}? Known: {', '.join(known)}."
            raise InputError(f"{prefix}{key}", value, "[sae] has no such key", remedy)
    try:
        parse(recipe.of_kind | {"d_sae": recipe.d_sae or ANY_WIDTH})
    except InputError as error:
        raise error.about(f"{prefix}{error.field}") from error
