"""What an analysis works with: the models, texts, features, dictionaries and tables of a run.

A `Material` is a folder and a recipe, so that it travels to any machine that sees the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from homolog.record.layers import STREAM_AFTER
from homolog.record.run_folder import RunFolder
from homolog.record.sides import MAIN_LABEL, Models, StudyModel
from homolog.record.table import Table

if TYPE_CHECKING:
    from homolog.corpus import TokenWindows
    from homolog.dictionaries import SparseAutoencoder
    from homolog.features import SparseFeatures
    from homolog.models import LanguageModel
    from homolog.record.recipe import Interpretation


@dataclass(frozen=True)
class Material:
    """A run on disk and the recipe that it follows.  Everything is read when it is asked for."""

    path: Path
    recipe: Any
    """A `Recipe`, or a `CircuitRecipe` where there is nothing but circuits."""
    models: Models

    @property
    def run(self) -> RunFolder:
        """The run folder, as it is now."""
        return RunFolder(self.path)

    @property
    def compared(self) -> tuple[StudyModel, ...]:
        """The models that are compared."""
        return self.models.compared

    @property
    def seed(self) -> int:
        """Root of every random choice."""
        return self.recipe.run.seed

    @property
    def interpretation(self) -> Interpretation:
        """The recipe's table of that name, for analyses that are wanted only where it is there."""
        assert self.recipe.interpretation is not None
        return self.recipe.interpretation

    def n_layers(self, model: str) -> int:
        """Blocks of a model, as the run knows them."""
        return int(self.run.facts(f"dictionaries {model}")["model"]["n_layers"])

    def layers(self, model: str) -> tuple[int, ...]:
        """Blocks of a model that have dictionaries, as the run knows them."""
        about = self.run.facts(f"dictionaries {model}")["model"]
        return tuple(about.get("layers") or range(int(about["n_layers"])))

    def n_documents(self, use: str) -> int:
        """Documents in the text for a use, as the run knows it from its beginning."""
        return int(self.run.record["corpus"][f"{use}_documents"])

    def table(self, table: Table) -> pl.DataFrame:
        """A table of the run; InputError where it is missing or damaged."""
        return table.read(self.run.table(table.name))

    def has(self, table: Table) -> bool:
        """Whether the run has the table."""
        return self.run.table(table.name).is_file()

    def model(self, model: str | StudyModel) -> LanguageModel:
        """A model in the recipe's precision, on its device; the last two asked for are kept."""
        wanted = model if isinstance(model, StudyModel) else self.named(model)
        run = self.recipe.run
        where = run.dtype, run.device, run.random_weights
        return _model(wanted.ref, wanted.revision, *where).begun(wanted.bos).placed(wanted.site)

    def named(self, model: str) -> StudyModel:
        """A model of the study by its name."""
        return next(m for m in self.models.all if m.name == model)

    def key(self, model: StudyModel) -> str:
        """Identifies the weights that a model runs with, and where it is read."""
        run = self.recipe.run
        begun = " after bos" if model.bos == "true" else ""
        there = "" if model.site == STREAM_AFTER else f" at {model.site}"
        return f"{model.ref} {model.revision} {run.dtype} {run.random_weights}{begun}{there}"

    def windows(self, use: str, model: str | None = None) -> TokenWindows:
        """The text for a use: "train", "match", "quality", or "neurons" to match theirs.

        model: as its tokenizer cuts it; by default as the first model's does.
        """
        return self.windows_of(use, "" if model is None else self.run.text_of(model))

    def windows_of(self, use: str, text: str) -> TokenWindows:
        """The same of a text by its name (`RunFolder.text_of`)."""
        return _windows(self.run.windows_folder(use, text))

    def features(
        self, model: str, layer: int, label: str = MAIN_LABEL, beside: str | None = None
    ) -> SparseFeatures:
        """The activations of a dictionary's features on the matched text; the last two are kept.

        beside: by the units that they have in common with this other model, where the tokenizers
        of the two differ.
        """
        run, folder = self.run, self.run.feature_folder(model, layer, label)
        if beside is not None and (texts := self.texts_of(model, beside)) is not None:
            folder = run.units_folder(texts, model, layer, label)
        return _features(folder)

    def texts_of(self, a: str, b: str) -> tuple[str, str] | None:
        """The two texts that two models read, in order; None where it is one."""
        one, two = sorted(map(self.run.text_of, (a, b)))
        return None if one == two else (one, two)

    def sae(self, model: str, layer: int, label: str = MAIN_LABEL) -> SparseAutoencoder:
        """A dictionary."""
        from homolog import dictionaries

        return dictionaries.load(self.run.sae_folder(model, layer, label))


@lru_cache(maxsize=2)
def _model(ref: str, revision: str | None, dtype: str, device: str, random: bool) -> LanguageModel:
    import torch

    from homolog.models import load

    return load(ref, revision=revision, dtype=getattr(torch, dtype), device=device, random=random)


@lru_cache(maxsize=4)
def _windows(folder: Path) -> TokenWindows:
    from homolog.corpus import load_windows

    return load_windows(folder)


@lru_cache(maxsize=2)
def _features(folder: Path) -> SparseFeatures:
    from homolog.features import SparseFeatures, load_features

    features = load_features(folder)
    assert isinstance(features, SparseFeatures)
    return features
