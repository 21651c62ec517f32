"""The models and dictionaries of a run, loaded once; or what is missing, in words.

What they are made of is checked against the run's own record: weights and tokenizers that are not
those that it read, and dictionaries or matches that are not as they were written, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from homolog import dictionaries
from homolog.analyses.material import Material
from homolog.corpus import token_texts
from homolog.dictionaries.encoder import SparseEncoder
from homolog.errors import InputError
from homolog.features import open_features
from homolog.pipeline.inputs import tokenizer_input, weights_input
from homolog.pipeline.models import models_of
from homolog.pipeline.sinks import limits_in
from homolog.progress import Progress
from homolog.record.recipe import Recipe
from homolog.record.run_folder import RunFolder
from homolog.record.sides import StudyModel
from homolog.record.tables import FEATURES, MATCHES
from homolog.serve.desk import Desk, Pair
from homolog.serve.partners import Partners, Place
from homolog.serve.reading import Reader, ReadLayer

WORDS = 3
"""Tokens that say what a feature fires on."""


def open_desk(path: Path, progress: Progress, device: str | None = None) -> Desk:
    """All that answers questions about prompts of a run, in memory.

    device: replaces the recipe's.  Raises InputError that says what is missing.
    """
    run = RunFolder(path)
    if not run.record.get("pairs") or not run.table(MATCHES).is_file():
        requirement = "a prompt needs a study with matched features, and it has none"
        remedy = "Finish the run, or serve that of a study."
        if run.path.joinpath("cells").is_dir():
            remedy = "It is a grid: serve one of its cells."
        raise InputError("run folder", str(path), requirement, remedy)
    recipe = Recipe.parse(run.recipe).with_run(device=device)
    material = Material(run.path.absolute(), recipe, models_of(recipe))
    for model in material.compared:
        if model.name not in run.record["compared"]:  # a folder that is gone names another thing
            requirement = "it must lie where the run has read it"
            raise InputError("model", model.ref, requirement, "Put it there, and start again.")
    run.require_whole(run.table(MATCHES), run.table(FEATURES))
    readers = {model.name: _reader(material, model, progress) for model in material.compared}
    pairs = [
        Pair((a, b), Partners.read(run, a, b), run.text_of(a) == run.text_of(b))
        for a, b in run.record["pairs"]
    ]
    return Desk(readers, pairs, _words(run), recipe.matching.align)


def _reader(material: Material, model: StudyModel, progress: Progress) -> Reader:
    """A model with its dictionaries, after its progress."""
    run = material.run
    layers = material.layers(model.name)
    with progress.stage(f"load {model.name}", total=1 + len(layers)) as bar:
        folders = [run.sae_folder(model.name, layer) for layer in layers]
        for folder in folders:
            if not folder.is_dir():
                requirement = "the dictionary must be in the run folder"
                raise InputError(
                    f"dictionary of {model.name}", str(folder), requirement, "Copy it there too."
                )
        run.require_whole(*folders)
        try:
            _require_as_recorded(material, model)
            loaded = material.model(model)
            texts = token_texts(loaded.require_tokenizer())
        except InputError:
            raise
        except Exception as error:  # of any library, file or device
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            remedy = "Put it where the recipe names it, or give another --device."
            requirement = f"loading it failed ({said})"
            raise InputError(f"model {model.name}", model.ref, requirement, remedy) from error
        bar.advance()
        read = {}
        for layer in layers:
            read[layer] = _layer(material, model.name, layer, loaded.device)
            bar.advance()
    return Reader(model.name, loaded, read, texts, limits_in(run, model.name))


def _layer(material: Material, model: str, layer: int, device: torch.device) -> ReadLayer:
    folder = material.run.sae_folder(model, layer)
    sae = dictionaries.load(folder)
    return ReadLayer(
        SparseEncoder(sae, device=device), sae.W_dec.to(device), _largest(material, model, layer)
    )


def _largest(material: Material, model: str, layer: int) -> np.ndarray | None:
    """The largest activation of each feature on the matched text; None where that is not kept."""
    try:
        return open_features(material.run.feature_folder(model, layer)).statistics.max
    except InputError:
        return None


def _require_as_recorded(material: Material, model: StudyModel) -> None:
    """InputError where a model's weights or tokenizer are not those that the run read."""
    random, known = material.recipe.run.random_weights, material.run.record.get("inputs", {})
    for item in (
        weights_input(model.ref, model.revision, random=random),
        tokenizer_input(model.ref, model.revision, random=random),
    ):
        if item.name in known and not item.is_as(known[item.name]):
            requirement = f"{item.name} are not what the run was made with"
            remedy = "Bring back what was there when the run began."
            raise InputError(f"model {model.name}", model.ref, requirement, remedy)


def _words(run: RunFolder) -> Mapping[str, Mapping[Place, list[str]]]:
    """By model and place, the tokens that each feature fires on most, where the run has them."""
    words: dict[str, dict[Place, list[str]]] = {}
    if run.table(FEATURES).is_file():
        names = ("model", "layer", "feature", "top_tokens")
        for model, layer, feature, tokens in FEATURES.read(run.table(FEATURES), names).iter_rows():
            words.setdefault(model, {})[layer, feature] = (
                [] if tokens is None else list(tokens)[:WORDS]
            )
    return words
