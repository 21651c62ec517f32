"""Homologous features and circuits of two language models of different architectures.

    model = homolog.load("zoo:transformer-s0")
    run = model.run(tokens, capture=["resid.0"], stop_after="resid.0")
    best = homolog.max_pearson(a, b)

Public names are imported when first used, so that `import homolog` and the command line start at
once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from homolog.errors import InputError
    from homolog.matching import StandIn, match, max_pearson
    from homolog.models import (
        Add,
        LanguageModel,
        Mean,
        Replace,
        Resample,
        Site,
        Transform,
        Zero,
        load,
    )
    from homolog.pipeline import Study, load_recipe
    from homolog.pipeline.grid import run_grid
    from homolog.pipeline.run_study import run_study

_HOME = {
    "InputError": "homolog.errors",
    "StandIn": "homolog.matching",
    "match": "homolog.matching",
    "max_pearson": "homolog.matching",
    "Add": "homolog.models",
    "LanguageModel": "homolog.models",
    "Mean": "homolog.models",
    "Replace": "homolog.models",
    "Resample": "homolog.models",
    "Site": "homolog.models",
    "Transform": "homolog.models",
    "Zero": "homolog.models",
    "load": "homolog.models",
    "Study": "homolog.pipeline",
    "load_recipe": "homolog.pipeline",
    "run_grid": "homolog.pipeline.grid",
    "run_study": "homolog.pipeline.run_study",
}

__all__ = [
    "Add",
    "InputError",
    "LanguageModel",
    "Mean",
    "Replace",
    "Resample",
    "Site",
    "StandIn",
    "Study",
    "Transform",
    "Zero",
    "load",
    "load_recipe",
    "match",
    "max_pearson",
    "run_grid",
    "run_study",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'homolog' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
