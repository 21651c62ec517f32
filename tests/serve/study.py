"""Small studies that are really trained: of two architectures, and of two tokenizers."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.pipeline.outcome import MEANING, RECIPE, beside_the_zoo, leave_undrawn
from tests.pipeline.test_two_tokenizers import save_model

from homolog.pipeline.recipes import parse_recipe
from homolog.pipeline.run_study import run_study
from homolog.progress import SilentProgress
from homolog.record.recipe import Recipe
from homolog.record.run_folder import RunFolder

LAYERS = {"transformer-s0": (1, 3), "mamba-s0": (2, 5)}


def two_architectures() -> Recipe:
    import tomllib

    text = RECIPE.replace('ref = "zoo:transformer-s0"', 'ref = "zoo:transformer-s0"\nlayers = [1, 3]')
    text = text.replace('"zoo:transformer-s1"', '"zoo:mamba-s0"\nlayers = [2, 5]')
    values = tomllib.loads(text + MEANING)
    values["interpretation"]["causal_pairs"] = 0
    values["matching"] |= {"least_documents": 1, "rival_ratio": 0}
    return parse_recipe(values, "prompt")


def two_tokenizers(folder: Path) -> Recipe:
    return beside_the_zoo(save_model(folder / "other"), {"layers": [0]}, 1.0)


def made(recipe: Recipe, folder: Path) -> RunFolder:
    """The run of a recipe, with its windows, without images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "drop_cache", lambda self: None)
        leave_undrawn(patch.setattr)
        run_study(recipe, folder / "run", SilentProgress())
    return RunFolder(folder / "run")
