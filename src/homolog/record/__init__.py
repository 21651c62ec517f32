"""Files on disk: atomic writes, checksums and the run folder, the sole owner of paths.

Public names are imported when first used, so that a recipe is read without polars.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from homolog.record.comparisons import Comparison, register
    from homolog.record.recipe import Recipe
    from homolog.record.run_folder import RunFolder
    from homolog.record.sides import Models, Side
    from homolog.record.table import Column, Table

_NAMES = {
    "comparisons": ("Comparison", "Models", "Side", "register"),
    "recipe": ("Recipe",),
    "run_folder": ("RunFolder",),
    "table": ("Column", "Table"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["Column", "Comparison", "Models", "Recipe", "RunFolder", "Side", "Table", "register"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'homolog.record' has no attribute {name!r}")
    return getattr(import_module(f"homolog.record.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
