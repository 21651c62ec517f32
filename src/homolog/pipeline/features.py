"""The features of a model on the matched text, its neurons, and the current token as features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from homolog import dictionaries
from homolog.analyses.material import Material
from homolog.corpus import TokenWindows
from homolog.dictionaries.formats import WEIGHTS_FILE
from homolog.dictionaries.hardware import product_precision
from homolog.features import (
    DenseFeatures,
    Shard,
    SparseFeatures,
    Target,
    capture,
    close_features,
    encode_shard,
    open_features,
)
from homolog.features.files import begin_folder, end_folder, part_path
from homolog.matching.columns import one_hot
from homolog.pipeline.context import Context
from homolog.pipeline.dictionaries import shards_of
from homolog.pipeline.text import MATCH, NEURONS
from homolog.record.atomic import sha256_bytes, sha256_file
from homolog.record.parts import read_part, write_part
from homolog.record.places import Places
from homolog.record.sides import CURRENT_TOKEN, NEURON, Side, StudyModel

NEURONS_AT_ONCE = 256  # whose values are copied to float64


def encode_features(context: Context, model: StudyModel) -> None:
    """The features of all dictionaries of a model, as one stage."""
    run, material, stage = context.run, context.material, f"features {model.name}"
    if run.is_done(stage):
        return
    loaded = material.model(model)
    layers = material.layers(model.name)
    outputs = [
        run.feature_folder(model.name, i, label) for i in layers for label in model.encoded_labels
    ]
    with run.stage(stage, outputs):
        shards = shards_of(material, loaded, material.windows(MATCH, model.name), len(layers))
        calls = [{"model": model, "shard": s, "threads": context.threads} for s in shards]
        context.tasks(f"encode {model.name}", encode_text, calls)
        calls = [{"model": model, "shards": shards, "layer": layer} for layer in layers]
        context.tasks(f"count features of {model.name}", close_text, calls)


def feature_folders(context: Context, side: Side, partner: StudyModel | None = None) -> list[Path]:
    """The folders of a side's features, one per layer; makes those that are no dictionary's.

    partner: whose tokens are the features of `CURRENT_TOKEN`; by default those of the first model.
    """
    run, model = context.run, side.model
    if model == CURRENT_TOKEN:
        text = "" if partner is None else run.text_of(partner.name)
        stage = f"{CURRENT_TOKEN.name} {text}".strip()
        folder = run.cache_folder / stage.replace(" ", "@")
        if context.is_missing(stage):
            with run.stage(stage, [folder]):
                windows = context.material.windows(MATCH, partner and partner.name)
                store_current_token(folder, windows)
        return [folder]
    layers = context.material.layers(model.name)
    if side.label == NEURON:
        return _neurons(context, model, layers)
    return [run.feature_folder(model.name, layer, side.label) for layer in layers]


def _neurons(context: Context, model: StudyModel, layers: Sequence[int]) -> list[Path]:
    material, stage = context.material, f"neurons {model.name}"
    folders = [neuron_folder(context.run, model.name, layer) for layer in layers]
    if context.is_missing(stage):
        loaded, text = material.model(model), material.windows(NEURONS, model.name)
        shards = shards_of(material, loaded, text, len(layers))
        with context.run.stage(stage, folders):
            calls = [{"model": model, "shard": shard} for shard in shards]
            context.tasks(f"neurons of {model.name}", store_neurons, calls)
            calls = [{"model": model, "shards": shards, "layer": layer} for layer in layers]
            context.tasks(f"count neurons of {model.name}", close_neurons, calls)
    return folders


def targets_of(material: Material, model: StudyModel, layers: Sequence[int]) -> list[Target]:
    """The features that are wanted of some layers of a model: every dictionary of each."""
    run, targets = material.run, []
    for layer in layers:
        for label in model.encoded_labels:
            sae = run.sae_folder(model.name, layer, label)
            key = f"{material.key(model)} {sha256_file(sae / WEIGHTS_FILE)}"
            folder = run.feature_folder(model.name, layer, label)
            load = partial(dictionaries.load, sae)
            targets.append(Target(folder, model.name, layer, label, key, load))
    return targets


def encode_text(material: Material, model: StudyModel, shard: Shard, threads: int | None) -> None:
    """Task: the features of all dictionaries on a shard of the matched text."""
    loaded = material.model(model)
    targets = targets_of(material, model, material.layers(model.name))
    encode_shard(loaded, material.windows(MATCH, model.name), shard, targets, threads=threads)


def close_text(material: Material, model: StudyModel, shards: list[Shard], layer: int) -> None:
    """Task: complete the feature folders of one layer when all shards are encoded."""
    product = product_precision("auto", material.recipe.run.device)
    for target in targets_of(material, model, [layer]):
        close_features(material.windows(MATCH, model.name), shards, target, product)


def store_current_token(folder: Path, text: TokenWindows) -> None:
    """One feature for each token of the vocabulary: 1 where the token stands, else 0."""
    tokens = text.tokens[text.mask]
    matrix = one_hot(tokens, int(text.tokens.max()) + 1)
    SparseFeatures(matrix, text.hash, text.token_document, CURRENT_TOKEN.name, 0).save(folder)


def neuron_folder(run: Places, model: str, layer: int) -> Path:
    """Where the neurons of a layer lie until the run ends."""
    return run.cache_folder / "neurons" / model / str(layer)


def _neuron_key(material: Material, model: StudyModel, text: TokenWindows) -> str:
    return sha256_bytes(f"neurons {material.key(model)}", text.hash)


def store_neurons(material: Material, model: StudyModel, shard: Shard) -> None:
    """Task: the neurons of the layers on a shard: MLP units, or SSM input and gate of a Mamba."""
    loaded, text = material.model(model), shard.of(material.windows(NEURONS, model.name))
    key, layers = _neuron_key(material, model, text), material.layers(model.name)
    folders = [neuron_folder(material.run, model.name, layer) for layer in layers]
    if all(read_part(part_path(folder, shard.number), key) is not None for folder in folders):
        return
    sites = [site for layer in layers for site in loaded.neuron_sites(layer)]
    values, each = capture(loaded, text, sites), len(sites) // len(layers)
    for number, folder in enumerate(folders):
        begin_folder(folder)
        joined = torch.cat(values[number * each : (number + 1) * each], dim=1).numpy()
        write_part(part_path(folder, shard.number), {"dense": joined}, key)


def close_neurons(material: Material, model: StudyModel, shards: list[Shard], layer: int) -> None:
    """Task: complete the folder of one layer's neurons."""
    windows = material.windows(NEURONS, model.name)
    folder = neuron_folder(material.run, model.name, layer)
    parts = []
    for shard in shards:
        key = _neuron_key(material, model, shard.of(windows))
        part = read_part(part_path(folder, shard.number), key)
        if part is None:
            raise RuntimeError(
                f"part {shard.number} of {folder} was damaged after it was written: start the run "
                "again"
            )
        parts.append(part["dense"])
    features = DenseFeatures(
        np.concatenate(parts), windows.hash, windows.token_document, model.name, layer
    )
    names = ("kind", "model", "layer", "label", "stream_hash", "n_tokens", "n_features")
    origin = {name: getattr(features, name) for name in names}
    files = [{"tokens": len(part)} for part in parts]
    end_folder(folder, origin, files, features.document, vars(features.statistics))


def share_by_token(folders: list[Path], text: TokenWindows) -> float:
    """Share of the neurons' variance that the current token explains: that of means by token."""
    _, token = np.unique(text.tokens[text.mask], return_inverse=True)  # of a vocabulary few occur
    counts = np.bincount(token)
    by_type = one_hot(token, len(counts)).T
    explained = total = 0.0
    for folder in folders:
        neurons = open_features(folder).load().matrix
        for some in range(0, neurons.shape[1], NEURONS_AT_ONCE):
            values = neurons[:, some : some + NEURONS_AT_ONCE].astype(np.float64)
            deviations = by_type @ values / counts[:, None] - values.mean(axis=0)
            explained += float((counts[:, None] * deviations**2).sum())
            total += float(values.var(axis=0).sum()) * len(token)
    return explained / total
