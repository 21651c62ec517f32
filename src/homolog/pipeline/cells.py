"""The cells of a grid: the recipe of each, which is a study of its own.

A cell is the recipe with the dictionaries of one table of `grid.dictionaries` and one of
`grid.d_sae`, and without what does not ask for a verdict.  Its name says what is its own, and is
the name of its folder: "topk-16-384" has TopK dictionaries of k = 16 and 384 features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from homolog.dictionaries.kinds import KINDS
from homolog.errors import InputError
from homolog.record.names import folder_name
from homolog.record.recipe import Grid, GridDictionaries, Recipe, Sae
from homolog.record.recipe.dictionaries import in_place_of


@dataclass(frozen=True)
class Cell:
    """One cell.  number: of its table in `grid.dictionaries`."""

    name: str
    number: int
    recipe: Recipe


def cells_of(recipe: Recipe, source: str = "recipe") -> list[Cell]:
    """The cells of a recipe with a grid, width by width; source: says in errors where it is from.

    InputError for settings that cannot be, and for two cells of one name.
    """
    assert recipe.grid is not None
    cells: list[Cell] = []
    for d_sae in recipe.grid.d_sae or (None,):
        for number, own in enumerate(recipe.grid.dictionaries):
            values = _values(recipe, recipe.grid, own, d_sae)
            try:
                cell = Recipe.parse(values)
            except InputError as error:
                raise named_in_grid(error, number, source) from error
            if any(cell.name == other.name for other in cells):
                requirement = "two cells of a grid have that name"
                field = f"{source}: grid.dictionaries.{number}"
                raise InputError(field, cell.name, requirement, "Give each of them once.")
            cells.append(Cell(cell.name, number, cell))
    return cells


def named_in_grid(error: InputError, number: int, source: str) -> InputError:
    """An error in [sae] of a cell, about the table of the grid that the user wrote."""
    field = error.field.removeprefix(f"{source}: ")
    inner = field.removeprefix("sae").removeprefix(".")
    if not field.startswith("sae"):
        return error.about(f"{source}: {field}")
    return error.about(".".join(filter(None, [f"{source}: grid.dictionaries.{number}", inner])))


def _values(recipe: Recipe, grid: Grid, own: GridDictionaries, d_sae: int | None) -> dict[str, Any]:
    """The recipe of a cell, as values."""
    base = recipe.sae.values()
    same_kind = own.changes.get("kind", recipe.sae.kind) == recipe.sae.kind
    kept = base if same_kind else {key: base[key] for key in Sae.model_fields}
    sae = in_place_of(kept, own.changes)
    if d_sae is not None:
        sae |= {"d_sae": d_sae, "expansion": None}
    if grid.seeds is not None:
        further = range(max(recipe.sae.seeds) + 1, max(recipe.sae.seeds) + grid.seeds)
        sae["seeds"] = (*recipe.sae.seeds, *further)[: grid.seeds]
    values = recipe.values()
    models = values["models"]
    if own.untrained is not None:
        models = [
            m | {"untrained_sae": own.untrained if m["untrained_sae"] else {}} for m in models
        ]
    return values | {
        "name": _name(sae, own),
        "models": models,
        "sae": sae,
        "controls": values["controls"] | {"neurons": False},
        "matching": values["matching"] | {"space_tokens": 0},  # the models are the same in all
        "interpretation": None,
        "crosscoder": None,
        "alignment_search": None,
        "circuits": None,
        "grid": None,
    }


def _name(sae: dict[str, Any], own: GridDictionaries) -> str:
    kind = KINDS.get(sae["kind"])
    sparsity = "" if kind is None else kind.sparsity
    others = [
        f"{key}-{_word(value)}"
        for key, value in own.changes.items()
        if key not in ("kind", sparsity)
    ]
    width = sae["d_sae"] or f"x{sae['expansion']:g}"
    words = [str(sae["kind"]), _word(sae.get(sparsity, "")), *others, str(width)]
    return folder_name("-".join(word for word in words if word))


def _word(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if number else str(value)
