"""Wiring: the only code, with the command line, that knows the order of the work.

    recipe = load_recipe("demo")                                     # or the path of a recipe
    homolog.run_study(recipe, Path("runs/demo"), SilentProgress())   # -> the report's index.html
    study = Study.load("runs/demo")

Public names are imported when first used, so that `Study` opens a run without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from homolog.pipeline.circuits import run_circuits
    from homolog.pipeline.rate import rate_run
    from homolog.pipeline.recipes import load_recipe, parse_circuits, parse_recipe, parse_saes
    from homolog.pipeline.sae import train_saes
    from homolog.pipeline.sae_eval import Evaluation, evaluate_sae
    from homolog.pipeline.study import Study
    from homolog.progress import Progress, SilentProgress, make_progress
    from homolog.record.built_in import built_in_recipes

_NAMES = {
    "pipeline.circuits": ("run_circuits",),
    "pipeline.rate": ("rate_run",),
    "pipeline.recipes": ("load_recipe", "parse_circuits", "parse_recipe", "parse_saes"),
    "pipeline.sae": ("train_saes",),
    "pipeline.sae_eval": ("Evaluation", "evaluate_sae"),
    "pipeline.study": ("Study",),
    "progress": ("Progress", "SilentProgress", "make_progress"),
    "record.built_in": ("built_in_recipes",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Evaluation",
    "Progress",
    "SilentProgress",
    "Study",
    "built_in_recipes",
    "evaluate_sae",
    "load_recipe",
    "make_progress",
    "parse_circuits",
    "parse_recipe",
    "parse_saes",
    "rate_run",
    "run_circuits",
    "train_saes",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'homolog.pipeline' has no attribute {name!r}")
    return getattr(import_module(f"homolog.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
