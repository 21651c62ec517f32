"""Everything that needs one model: its dictionaries with their quality, and its features on the matched text."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse
import torch

from homolog import dictionaries
from homolog.axes import Activations
from homolog.corpus import TokenWindows
from homolog.dictionaries import ReluConfig, ResidualArrays, SparseAutoencoder, TopKConfig, TrainingConfig
from homolog.features import DenseFeatures, SparseFeatures, capture, residual_sites
from homolog.models import LanguageModel, load
from homolog.progress import Progress
from homolog.storage.run_folder import RunFolder
from homolog.studies.plan import ROTATED, Subject
from homolog.studies.recipe import Recipe

LOSS_WINDOWS = 64  # windows in a pass that measures losses


def load_subject(subject: Subject, recipe: Recipe) -> LanguageModel:
    """The model in the recipe's precision, on its device."""
    dtype = getattr(torch, recipe.pair.dtype)
    return load(subject.ref, revision=subject.revision, dtype=dtype, device=recipe.run.device)


def train_dictionaries(run: RunFolder, recipe: Recipe, subject: Subject, model: LanguageModel,
                       text: TokenWindows, quality_text: TokenWindows,
                       progress: Progress) -> list[dict[str, Any]]:  # fmt: skip
    """Train, judge and save the dictionaries of all layers and labels; returns their rows of the table `saes`."""
    width = recipe.sae.width(model.d_model)
    if recipe.sae.kind == "relu":
        assert recipe.sae.l1 is not None
        config: ReluConfig | TopKConfig = ReluConfig(d_sae=width, l1=recipe.sae.l1)
    else:
        assert recipe.sae.k is not None
        config = TopKConfig(d_sae=width, k=recipe.sae.k)
    training = TrainingConfig(
        n_tokens=text.n_tokens * recipe.sae.epochs,
        batch_size=recipe.sae.batch,
        learning_rate=recipe.sae.lr,
        seed=recipe.run.seed,
    )
    with progress.stage(f"read {subject.name}", text.n_tokens) as bar:
        residuals = capture(model, text, residual_sites(model), advance=bar.advance)
    source = ResidualArrays(residuals, seed=recipe.run.seed, name=subject.name)
    with progress.stage(f"train dictionaries of {subject.name}", training.n_steps * training.batch_size) as bar:
        done = 0

        def report(state: dictionaries.Progress) -> None:
            nonlocal done
            bar.advance(state.tokens_done - done)
            done = state.tokens_done

        trained = dictionaries.train(
            source, config, training, model=subject.name, labels=subject.labels, progress=report,
            checkpoint=run.cache_folder / f"{subject.name}.safetensors",
        )  # fmt: skip
    del source, residuals
    with progress.stage(f"judge dictionaries of {subject.name}", model.n_layers * len(subject.labels)) as bar:
        return _judge_and_save(run, recipe, subject, model, trained, quality_text, bar.advance)


def _judge_and_save(run: RunFolder, recipe: Recipe, subject: Subject, model: LanguageModel,
                    trained: dict[str, list[SparseAutoencoder]], text: TokenWindows,
                    advance: Callable[[int], None]) -> list[dict[str, Any]]:  # fmt: skip
    held_out = _full_residuals(model, text)
    keep = torch.from_numpy(text.mask).reshape(-1)
    gates = dictionaries.Gates(**recipe.gates.model_dump())
    clean = _spliced_loss(model, text, held_out, model.n_layers - 1, lambda x: x)
    rows = []
    for label, saes in trained.items():
        for layer, sae in enumerate(saes):
            quality = dictionaries.measure_quality(
                sae, held_out[layer].flatten(0, 1), keep=keep, loss_clean=clean, gates=gates,
                spliced_loss=partial(_spliced_loss, model, text, held_out, layer),
            )  # fmt: skip
            dictionaries.save(sae, run.sae_folder(subject.name, layer, label), quality)
            row = {"model": subject.name, "label": label, "layer": layer, "kind": recipe.sae.kind, "d_sae": sae.d_sae,
                   "sparsity": float(recipe.sae.l1 if recipe.sae.k is None else recipe.sae.k),  # type: ignore[arg-type]
                   "tokens_trained": sae.metadata["tokens_trained"]}  # fmt: skip
            measured = quality.as_row()
            measured.pop("density_quantiles")
            rows.append({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in (row | measured).items()})
            advance(1)
    return rows


@torch.inference_mode()
def _full_residuals(model: LanguageModel, text: TokenWindows) -> list[torch.Tensor]:
    """Residuals after every block with special tokens kept: (windows, context, d_model), one a layer."""
    parts = [model.residuals(tokens) for tokens in torch.from_numpy(text.tokens).long().split(LOSS_WINDOWS)]
    return [torch.cat([part[layer] for part in parts]) for layer in range(model.n_layers)]


@torch.inference_mode()
def _spliced_loss(model: LanguageModel, text: TokenWindows, residuals: list[torch.Tensor], layer: int,
                  transform: Callable[[Activations], Activations]) -> float:  # fmt: skip
    """Mean next-token loss (nats) with `transform` applied to the layer's residuals at tokens that are not special."""
    total, count = 0.0, 0
    for first in range(0, len(text), LOSS_WINDOWS):
        rows = slice(first, first + LOSS_WINDOWS)
        h, keep = residuals[layer][rows].clone(), torch.from_numpy(text.mask[rows])
        h[keep] = transform(h[keep].float().cpu()).to(h)
        logits = model.continue_from(layer, h)[:, :-1]
        targets = torch.from_numpy(text.tokens[rows, 1:]).long().to(logits.device)
        counted = keep[:, 1:].to(logits.device)
        losses = torch.nn.functional.cross_entropy(logits[counted], targets[counted], reduction="sum")
        total, count = total + float(losses), count + int(counted.sum())
    return total / count


def encode_features(run: RunFolder, recipe: Recipe, subject: Subject, text: TokenWindows, progress: Progress) -> None:
    """Features of all its dictionaries on the matched text, saved one folder a layer and label."""
    model = load_subject(subject, recipe)
    sites = residual_sites(model)
    with progress.stage(f"read {subject.name} for matching", text.n_tokens) as bar:
        residuals = capture(model, text, sites, advance=bar.advance)
    with progress.stage(f"encode {subject.name}", len(sites) * len(subject.encoded_labels)) as bar:
        for label in subject.encoded_labels:
            for layer, x in enumerate(residuals):
                matrix = dictionary_of(run, recipe, subject, layer, label, x).encode_sparse(x)
                features = SparseFeatures(matrix, text.hash, text.token_document, subject.name, layer, label)
                features.save(run.feature_folder(subject.name, layer, label))
                bar.advance(1)


def dictionary_of(
    run: RunFolder, recipe: Recipe, subject: Subject, layer: int, label: str, x: Activations
) -> SparseAutoencoder:
    """A saved dictionary, or the rotated twin of the first one with its firing rates kept on `x`."""
    if label != ROTATED:
        return dictionaries.load(run.sae_folder(subject.name, layer, label))
    sae = dictionaries.load(run.sae_folder(subject.name, layer))
    sample = x[:: max(1, len(x) // 16_384)]
    return dictionaries.rotated(sae, dictionaries.derive_seed(recipe.run.seed, "rotated", subject.name, layer), sample)


def current_token(text: TokenWindows) -> SparseFeatures:
    """One feature for each token of the vocabulary: 1 where the token stands, else 0."""
    tokens = text.tokens[text.mask]
    rows = np.arange(len(tokens) + 1)
    width = int(text.tokens.max()) + 1
    matrix = scipy.sparse.csr_array((np.ones(len(tokens), np.float32), tokens, rows), shape=(len(tokens), width))
    return SparseFeatures(matrix, text.hash, text.token_document, "current-token", 0)


def share_by_token(layers: list[DenseFeatures], text: TokenWindows) -> float:
    """Share of the neurons' variance that the current token explains: that of their means by token."""
    tokens = text.tokens[text.mask]
    counts = np.bincount(tokens)
    explained = total = 0.0
    for features in layers:
        sums = np.zeros((len(counts), features.n_features))
        np.add.at(sums, tokens, features.matrix)
        mean = features.matrix.mean(axis=0, dtype=np.float64)
        by_token = sums / np.maximum(counts, 1)[:, None] - mean
        explained += float((counts[:, None] * by_token**2).sum())
        total += float(features.matrix.var(axis=0, dtype=np.float64).sum()) * len(tokens)
    return explained / total


def neurons(recipe: Recipe, subject: Subject, text: TokenWindows, progress: Progress) -> list[DenseFeatures]:
    """The model's neurons on `text`, one entry a layer: MLP hidden units, or SSM input and gate of a Mamba."""
    model = load_subject(subject, recipe)
    found = []
    with progress.stage(f"neurons of {subject.name}", text.n_tokens) as bar:
        sites = [site for layer in range(model.n_layers) for site in model.neuron_sites(layer)]
        values = capture(model, text, sites, advance=bar.advance)
        per_layer = len(sites) // model.n_layers
        for layer in range(model.n_layers):
            joined = torch.cat(values[layer * per_layer : (layer + 1) * per_layer], dim=1).numpy()
            found.append(DenseFeatures(joined, text.hash, text.token_document, subject.name, layer))
    return found
