"""Everything that needs one model, as tasks: residuals, dictionaries with their quality, features,
neurons.

A task reads its inputs from the run folder and writes its outputs there part by part
(`storage.parts`), so that it may run in this process or on any machine that sees the folder, and a
run that was stopped goes on with what is missing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

from homolog import dictionaries
from homolog.corpus import TokenWindows, load_windows
from homolog.dictionaries import SparseAutoencoder, TrainingConfig, kind_of, parse_config
from homolog.dictionaries.formats import CONFIG_FILE, WEIGHTS_FILE
from homolog.dictionaries.hardware import product_precision
from homolog.dictionaries.sources import StoredResiduals
from homolog.features import (
    DenseFeatures,
    Shard,
    SparseFeatures,
    Target,
    capture,
    close_features,
    cut_shards,
    encode_shard,
    open_features,
)
from homolog.features.files import begin_folder, end_folder, part_path
from homolog.features.residuals import write_shard
from homolog.features.splicing import clean_loss, full_residuals, measure_on_text
from homolog.models import LanguageModel, load
from homolog.pipeline.brought import load_brought, mismatch
from homolog.pipeline.finish import quality_row
from homolog.pipeline.plan import ROTATED, Subject
from homolog.pipeline.recipe import Recipe
from homolog.record.atomic import sha256_bytes, sha256_file
from homolog.record.parts import read_part, write_part
from homolog.record.receipts import read_receipt, write_receipt
from homolog.record.run_folder import RunFolder

THRESHOLD_ENTRIES = 1 << 27  # pre-activations on which thresholds are set: tokens x features
REHEARSED_L0 = 50.0


def load_subject(subject: Subject, recipe: Recipe) -> LanguageModel:
    """The model in the recipe's precision, on its device; the last two asked for are kept."""
    run = recipe.run
    return _load(subject.ref, subject.revision, run.dtype, run.device, run.random_weights)


@lru_cache(maxsize=2)
def _load(ref: str, revision: str | None, dtype: str, device: str, random: bool) -> LanguageModel:
    return load(ref, revision=revision, dtype=getattr(torch, dtype), device=device, random=random)


def model_key(subject: Subject, recipe: Recipe) -> str:
    """Identifies the weights that a subject runs with."""
    return f"{subject.ref} {subject.revision} {recipe.run.dtype} {recipe.run.random_weights}"


def shards_of(model: LanguageModel, text: TokenWindows, recipe: Recipe) -> list[Shard]:
    """The text in pieces whose residuals take at most `run.shard_mib`."""
    return cut_shards(text, model, recipe.run.shard_mib << 20)


def store_residuals(run: Path, recipe: Recipe, subject: Subject, shard: Shard) -> None:
    """Task: the residuals of all layers on a shard of the text to learn from."""
    folder, key = RunFolder(run).residuals_folder(subject.name), model_key(subject, recipe)
    write_shard(
        load_subject(subject, recipe),
        windows_of(run, "train"),
        shard,
        folder,
        key,
        stored_dtype(recipe),
    )


def stored_dtype(recipe: Recipe) -> torch.dtype:
    """In which residuals are stored for training."""
    return getattr(torch, recipe.sae.residuals)


def windows_of(run: Path, use: str) -> TokenWindows:
    """The windows that `studies.compare` stored in the cache for this use."""
    return _windows(RunFolder(run).cache_folder / "windows" / use)


@lru_cache(maxsize=2)
def _windows(folder: Path) -> TokenWindows:
    return load_windows(folder)


def train_layers(
    run: Path, recipe: Recipe, subject: Subject, layers: list[int], threads: int | None
) -> list[dict[str, Any]]:
    """Task: train, judge and save the dictionaries of some layers, all labels; returns their rows
    of the table `saes`.

    Dictionaries that the recipe brings are loaded instead.  A row's `note` warns where one names
    another model. Each layer's bytes are the same in whatever group it is trained.  A group that is
    complete is not trained again.
    """
    folder = RunFolder(run)
    name = f"{subject.name}-{layers[0]}-{layers[-1]}"  # groups may be cut anew when the run goes on
    receipt, key = (
        folder.cache_folder / "training" / f"{name}.json",
        f"dictionaries {recipe.hash} {layers}",
    )
    rows = read_receipt(receipt, key)
    if rows is None:
        rows = _train_layers(
            folder, recipe, subject, layers, threads, receipt.with_name(f"{name}.safetensors")
        )
        saes = [
            folder.sae_folder(subject.name, layer, label)
            for layer in layers
            for label in subject.encoded_labels
        ]
        write_receipt(
            receipt, rows, [sae / name for sae in saes for name in (WEIGHTS_FILE, CONFIG_FILE)], key
        )
    return rows


def _train_layers(
    folder: RunFolder,
    recipe: Recipe,
    subject: Subject,
    layers: list[int],
    threads: int | None,
    checkpoint: Path,
) -> list[dict[str, Any]]:
    model = load_subject(subject, recipe)
    if subject.saes:
        trained = {
            label: [load_brought(subject, model, label, layer) for layer in layers]
            for label in subject.labels
        }
    else:
        source = StoredResiduals(
            folder.residuals_folder(subject.name),
            seed=recipe.run.seed,
            name=subject.name,
            layers=layers,
        )
        trained = dictionaries.train(
            source,
            parse_config(recipe.sae.config(model.d_model)),
            training_config(recipe),
            model=subject.name,
            labels=subject.labels,
            checkpoint=dictionaries.Checkpoint(checkpoint),
            on=dictionaries.Place(recipe.run.device, threads),
        )
    text = windows_of(folder.path, "quality")
    residuals = full_residuals(model, text, layers)
    keep = torch.from_numpy(text.mask)
    for number, layer in enumerate(layers):
        sample = residuals[layer][keep].float().cpu()
        sample = sample[:: max(1, len(sample) * trained["sae"][number].d_sae // THRESHOLD_ENTRIES)]
        if recipe.run.random_weights and not subject.saes:
            for label, saes in trained.items():
                seed = dictionaries.derive_seed(
                    recipe.run.seed, "rehearsal", subject.name, label, layer
                )
                saes[number] = dictionaries.firing_like_trained(
                    saes[number], sample, REHEARSED_L0, seed
                )
        if subject.rotated:
            seed = dictionaries.derive_seed(recipe.run.seed, "rotated", subject.name, layer)
            turned = dictionaries.rotated(trained["sae"][number], seed, sample)
            dictionaries.save(turned, folder.sae_folder(subject.name, layer, ROTATED))
    return _judge_and_save(folder, recipe, subject, model, layers, trained, text, residuals)


def training_config(recipe: Recipe) -> TrainingConfig:
    """How every dictionary of the recipe is trained."""
    return TrainingConfig(
        n_tokens=recipe.corpus.train_tokens * recipe.sae.epochs,
        batch_size=recipe.sae.batch,
        learning_rate=recipe.sae.lr,
        seed=recipe.run.seed,
    )


def _judge_and_save(
    folder: RunFolder,
    recipe: Recipe,
    subject: Subject,
    model: LanguageModel,
    layers: list[int],
    trained: dict[str, list[SparseAutoencoder]],
    text: TokenWindows,
    residuals: dict[int, torch.Tensor],
) -> list[dict[str, Any]]:
    gates = dictionaries.Gates(**recipe.gates.model_dump())
    clean = clean_loss(model, text)
    rows = []
    for label, saes in trained.items():
        for layer, sae in zip(layers, saes, strict=True):
            quality = measure_on_text(
                model, text, residuals[layer], layer, sae, loss_clean=clean, gates=gates
            )
            facts = {
                "ref": subject.ref,
                "revision": subject.revision,
                "tokenizer": text.tokenizer_fingerprint,
            }
            sae = replace(sae, metadata={**sae.metadata, **facts})
            dictionaries.save(sae, folder.sae_folder(subject.name, layer, label), quality)
            row = quality_row(subject.name, label, layer, sae, sparsity_of(sae), quality)
            origin = sae.metadata.get("origin") or {}
            note = mismatch(subject, sae, text.tokenizer_fingerprint)
            rows.append(row | {"origin": origin.get("ref"), "note": note})
    return rows


def sparsity_of(sae: SparseAutoencoder) -> float | None:
    """The setting that made the dictionary as sparse as it is, L1 or L0 weight or k; None where its
    file says none.
    """
    value = sae.k or (sae.metadata.get("config") or {}).get(kind_of(sae.kind).sparsity)
    return None if value is None else float(value)


def targets_of(run: Path, recipe: Recipe, subject: Subject, n_layers: int) -> list[Target]:
    """The features that are wanted of a subject: every dictionary of every layer."""
    folder, targets = RunFolder(run), []
    for layer in range(n_layers):
        for label in subject.encoded_labels:
            sae = folder.sae_folder(subject.name, layer, label)
            key = f"{model_key(subject, recipe)} {sha256_file(sae / WEIGHTS_FILE)}"
            features = folder.feature_folder(subject.name, layer, label)
            targets.append(
                Target(features, subject.name, layer, label, key, partial(dictionaries.load, sae))
            )
    return targets


def encode_text(
    run: Path, recipe: Recipe, subject: Subject, shard: Shard, threads: int | None
) -> None:
    """Task: the features of all dictionaries on a shard of the matched text."""
    model = load_subject(subject, recipe)
    targets = targets_of(run, recipe, subject, model.n_layers)
    encode_shard(model, windows_of(run, "match"), shard, targets, threads=threads)


def close_text(
    run: Path, recipe: Recipe, subject: Subject, shards: list[Shard], layer: int
) -> None:
    """Task: complete the feature folders of one layer when all shards are encoded."""
    product = product_precision("auto", recipe.run.device)
    for target in targets_of(run, recipe, subject, layer + 1):
        if target.layer == layer:
            close_features(windows_of(run, "match"), shards, target, product)


def store_current_token(folder: Path, text: TokenWindows) -> None:
    """One feature for each token of the vocabulary: 1 where the token stands, else 0."""
    tokens = text.tokens[text.mask]
    rows = np.arange(len(tokens) + 1)
    width = int(text.tokens.max()) + 1
    matrix = scipy.sparse.csr_array(
        (np.ones(len(tokens), np.float32), tokens, rows), shape=(len(tokens), width)
    )
    SparseFeatures(matrix, text.hash, text.token_document, "current-token", 0).save(folder)


def neuron_folder(run: Path, name: str, layer: int) -> Path:
    """Where the neurons of a layer lie until the run ends."""
    return RunFolder(run).cache_folder / "neurons" / name / str(layer)


def store_neurons(run: Path, recipe: Recipe, subject: Subject, shard: Shard) -> None:
    """Task: the neurons of all layers on a shard of their text: MLP hidden units, or SSM input and
    gate of a Mamba.
    """
    model, text = load_subject(subject, recipe), shard.of(windows_of(run, "neurons"))
    key = sha256_bytes(f"neurons {model_key(subject, recipe)}", text.hash)
    folders = [neuron_folder(run, subject.name, layer) for layer in range(model.n_layers)]
    if all(read_part(part_path(folder, shard.number), key) is not None for folder in folders):
        return
    sites = [site for layer in range(model.n_layers) for site in model.neuron_sites(layer)]
    values, each = capture(model, text, sites), len(sites) // model.n_layers
    for layer, folder in enumerate(folders):
        begin_folder(folder)
        joined = torch.cat(values[layer * each : (layer + 1) * each], dim=1).numpy()
        write_part(part_path(folder, shard.number), {"dense": joined}, key)


def close_neurons(
    run: Path, recipe: Recipe, subject: Subject, shards: list[Shard], layer: int
) -> None:
    """Task: complete the folder of one layer's neurons."""
    windows, folder = windows_of(run, "neurons"), neuron_folder(run, subject.name, layer)
    parts = []
    for shard in shards:
        key = sha256_bytes(f"neurons {model_key(subject, recipe)}", shard.of(windows).hash)
        part = read_part(part_path(folder, shard.number), key)
        if part is None:
            raise RuntimeError(
                f"part {shard.number} of {folder} was damaged after it was written: start the run "
                "again"
            )
        parts.append(part["dense"])
    features = DenseFeatures(
        np.concatenate(parts), windows.hash, windows.token_document, subject.name, layer
    )
    names = ("kind", "model", "layer", "label", "stream_hash", "n_tokens", "n_features")
    origin = {name: getattr(features, name) for name in names}
    end_folder(
        folder,
        origin,
        [{"tokens": len(x)} for x in parts],
        features.document,
        vars(features.statistics),
    )


def share_by_token(folders: list[Path], text: TokenWindows) -> float:
    """Share of the neurons' variance that the current token explains: that of their means by token."""
    tokens = text.tokens[text.mask]
    counts = np.bincount(tokens)
    explained = total = 0.0
    for folder in folders:
        matrix = open_features(folder).load().matrix
        sums = np.zeros((len(counts), matrix.shape[1]))
        np.add.at(sums, tokens, matrix)
        mean = matrix.mean(axis=0, dtype=np.float64)
        by_token = sums / np.maximum(counts, 1)[:, None] - mean
        explained += float((counts[:, None] * by_token**2).sum())
        total += float(matrix.var(axis=0, dtype=np.float64).sum()) * len(tokens)
    return explained / total
