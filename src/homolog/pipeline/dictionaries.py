"""The dictionaries of a model: residuals, training or bringing, quality, derived controls.

A task reads its inputs from the run folder and writes its outputs there part by part, so that it
may run in this process or on any machine that sees the folder, and a run that was stopped goes on
with what is missing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from homolog import dictionaries
from homolog.analyses.analysis import function_of
from homolog.analyses.material import Material
from homolog.corpus import TokenWindows
from homolog.dictionaries import SparseAutoencoder, TrainingConfig, kind_of, parse_config
from homolog.dictionaries.formats import CONFIG_FILE, WEIGHTS_FILE, said_at
from homolog.dictionaries.sources import StoredResiduals
from homolog.dictionaries.training.target import TOLERANCE
from homolog.features import Pool, Shard, StreamedResiduals, cut_shards, write_residuals
from homolog.features.residuals import write_shard
from homolog.features.splicing import clean_loss, full_residuals, measure_on_text
from homolog.models import LanguageModel
from homolog.pipeline.beginnings import beginning_of, warnings_of_beginnings
from homolog.pipeline.brought import load_brought, mismatch
from homolog.pipeline.context import Context
from homolog.pipeline.finish import quality_row
from homolog.pipeline.sinks import limits_in
from homolog.pipeline.text import QUALITY, TRAIN
from homolog.progress import share_done
from homolog.record.comparisons import comparison_of
from homolog.record.layers import STREAM_AFTER
from homolog.record.process import machine
from homolog.record.receipts import read_receipt, write_receipt
from homolog.record.recipe import Recipe, Sae
from homolog.record.recipe.dictionaries import TARGET
from homolog.record.sides import MAIN_LABEL, StudyModel

THRESHOLD_ENTRIES = 1 << 27  # pre-activations on which thresholds are set: tokens x features
REHEARSED_L0 = 50.0
POOL = "pool"
TRAINING_SHARE = 0.9  # of a task that trains and measures, about
BYTES_A_WEIGHT = 4 * 5  # weights, gradients, two moments, the product's copy
Row = dict[str, Any]


def make_dictionaries(context: Context, model: StudyModel) -> None:
    """The dictionaries of all layers and labels of a model, as one stage."""
    run, material, stage = context.run, context.material, f"dictionaries {model.name}"
    if run.is_done(stage):
        return
    loaded = material.model(model)
    layers = model.blocks(loaded.n_layers)
    outputs = [
        run.sae_folder(model.name, i, label) for i in layers for label in model.encoded_labels
    ]
    with run.stage(stage, outputs) as facts:
        if not model.saes and material.recipe.sae.stream != POOL:
            _store_residuals(context, model, loaded)
        groups = _groups(context, model, layers, loaded.d_model)
        calls = [{"model": model, "layers": group, "threads": context.threads} for group in groups]
        title = f"{'load' if model.saes else 'train'} dictionaries of {model.name}"
        rows = [row for part in context.tasks(title, train_layers, calls) for row in part]
        rows.sort(key=lambda row: (model.labels.index(row["label"]), row["layer"]))
        notes = [note for row in rows if (note := row.pop("note")) is not None]
        beginning = beginning_of(run, model.name)
        notes += warnings_of_beginnings(model.name, beginning, context.progress)
        about = {
            "name": model.name,
            "ref": model.ref,
            "role": model.role,
            "architecture": loaded.architecture,
            "n_layers": loaded.n_layers,
            "layers": list(layers),
            "d_model": loaded.d_model,
            "n_parameters": loaded.n_parameters,
            "heldout_loss": rows[0]["loss_clean"],
        }
        about |= {} if model.site == STREAM_AFTER else {"site": model.site}
        about |= {} if beginning is None else {"beginning": beginning.facts()}
        facts |= {"saes": rows, "model": about, "notes": notes}
    run.drop_residuals(model.name)


def shards_of(
    material: Material, model: LanguageModel, text: TokenWindows, n_layers: int
) -> list[Shard]:
    """The text in pieces whose residuals of so many layers take at most `run.shard_mib`."""
    return cut_shards(text, model, material.recipe.run.shard_mib << 20, n_layers)


def _store_residuals(context: Context, model: StudyModel, loaded: LanguageModel) -> None:
    """The residuals that dictionaries are trained on."""
    material, text = context.material, text_to_learn(context.material, model)
    layers = model.blocks(loaded.n_layers)
    shards = shards_of(material, loaded, text, len(layers))
    calls = [{"model": model, "shard": shard} for shard in shards]
    context.tasks(f"read {model.name}", store_residuals, calls)
    write_residuals(
        loaded,
        text,
        context.run.residuals_folder(model.name),
        key=material.key(model),
        dtype=_stored_dtype(material.recipe),
        limits=limits_in(context.run, model.name),
        memory=material.recipe.run.shard_mib << 20,
        layers=layers,
    )


def _groups(
    context: Context, model: StudyModel, layers: tuple[int, ...], d_model: int
) -> list[list[int]]:
    """Layers whose dictionaries are trained together: as many as memory and workers allow."""
    one = 2 * d_model * sae_settings(context.material.recipe, model).width(d_model) * BYTES_A_WEIGHT
    at_once = max(1, context.task_bytes // (one * len(model.labels)))
    if context.threads is not None:
        at_once = min(at_once, max(1, len(layers) * context.threads // int(machine()["n_cpus"])))
    starts = range(0, len(layers), at_once)
    return [list(layers[first : first + at_once]) for first in starts]


def store_residuals(material: Material, model: StudyModel, shard: Shard) -> None:
    """Task: the residuals of the model's layers on a shard of the text to learn from."""
    folder, dtype = material.run.residuals_folder(model.name), _stored_dtype(material.recipe)
    loaded, text = material.model(model), text_to_learn(material, model)
    layers, limits = model.blocks(loaded.n_layers), limits_in(material.run, model.name)
    write_shard(loaded, text, shard, folder, material.key(model), dtype, layers, limits)


def _stored_dtype(recipe: Recipe) -> torch.dtype:
    return getattr(torch, recipe.sae.residuals)


def train_layers(
    material: Material, model: StudyModel, layers: list[int], threads: int | None
) -> list[Row]:
    """Task: the dictionaries of some layers, all labels, with their rows of the table `saes`.

    Dictionaries that the recipe brings are loaded instead of trained.  A row's `note` warns where
    one names another model.  Each layer's bytes are the same in whatever group it is trained.  A
    group that is complete is not trained again.
    """
    run = material.run
    name = f"{model.name}-{layers[0]}-{layers[-1]}"  # groups may be cut anew when the run goes on
    receipt = run.cache_folder / "training" / f"{name}.json"
    key = f"dictionaries {run.begun_with} {layers}"
    rows = read_receipt(receipt, key)
    if rows is None:
        group = LayerGroup(material, model, layers)
        trained = group.trained(threads, receipt.with_name(f"{name}.safetensors"))
        rows = group.measured(trained)
        saes = [
            run.sae_folder(model.name, i, label) for i in layers for label in model.encoded_labels
        ]
        files = [sae / file for sae in saes for file in (WEIGHTS_FILE, CONFIG_FILE)]
        write_receipt(receipt, rows, files, key)
    return rows


@dataclass(frozen=True)
class LayerGroup:
    """Some layers of a model, whose dictionaries are trained and measured together."""

    material: Material
    model: StudyModel
    layers: list[int]

    def trained(self, threads: int | None, checkpoint: Path) -> dict[str, list[SparseAutoencoder]]:
        """The dictionaries by label, in the order of the layers."""
        model, recipe = self.model, self.material.recipe
        loaded = self.material.model(model)
        if model.saes:
            return {
                label: [load_brought(model, loaded, label, layer) for layer in self.layers]
                for label in model.labels
            }
        trained = dictionaries.train(
            self._source(loaded),
            parse_config(sae_settings(recipe, model).config(loaded.d_model)),
            training_config(recipe, model),
            model=model.name,
            labels=model.labels,
            on=dictionaries.Place(recipe.run.device, threads),
            checkpoint=dictionaries.Checkpoint(checkpoint),
            progress=lambda at: share_done(TRAINING_SHARE * at.tokens_done / at.tokens_total),
        )
        sites = [str(loaded.own_site(layer)) for layer in self.layers]
        return {label: list(map(said_at, saes, sites)) for label, saes in trained.items()}

    def _source(self, loaded: LanguageModel) -> dictionaries.ActivationSource:
        """The residuals to learn from: stored, or of the model as it runs."""
        run, sae = self.material.run, self.material.recipe.sae
        name, seed = self.model.name, self.material.seed
        if sae.stream != POOL:
            folder = run.residuals_folder(name)
            return StoredResiduals(folder, seed=seed, name=name, layers=self.layers)
        width, dtype = len(self.layers) * loaded.d_model, _stored_dtype(self.material.recipe)
        return StreamedResiduals(
            loaded,
            text_to_learn(self.material, self.model),
            self.layers,
            seed=seed,
            name=name,
            key=self.material.key(self.model),
            pool=Pool.on(loaded.device, sae.pool_tokens, dtype, width),
            limits=limits_in(run, name),
        )

    def measured(self, trained: dict[str, list[SparseAutoencoder]]) -> list[Row]:
        """Save the dictionaries with their quality, and those derived from them; their rows."""
        material, model = self.material, self.material.model(self.model)
        text = material.windows(QUALITY, self.model.name)
        residuals = full_residuals(model, text, self.layers)
        kept = torch.from_numpy(text.mask)
        for number, layer in enumerate(self.layers):
            sample = residuals[layer][kept].float().cpu()
            most = trained[MAIN_LABEL][number].d_sae
            sample = sample[:: max(1, len(sample) * most // THRESHOLD_ENTRIES)]
            if material.recipe.run.random_weights and not self.model.saes:
                self._rehearse(trained, number, layer, sample)
            self._derive(trained[MAIN_LABEL][number], layer, sample)
        clean, rows = clean_loss(model, text), []
        for label, saes in trained.items():
            for layer, sae in zip(self.layers, saes, strict=True):
                quality = measure_on_text(
                    model,
                    text,
                    residuals[layer],
                    layer,
                    sae,
                    loss_clean=clean,
                    gates=material.recipe.gates,
                )
                rows.append(self._saved(label, layer, sae, text, quality))
        return rows

    def _rehearse(
        self,
        trained: dict[str, list[SparseAutoencoder]],
        number: int,
        layer: int,
        sample: torch.Tensor,
    ) -> None:
        for label, saes in trained.items():
            where = ("rehearsal", self.model.name, label, layer)
            seed = dictionaries.derive_seed(self.material.seed, *where)
            saes[number] = dictionaries.firing_like_trained(
                saes[number], sample, REHEARSED_L0, seed
            )

    def _derive(self, sae: SparseAutoencoder, layer: int, sample: torch.Tensor) -> None:
        """Save what comparisons derive from the main dictionary, each under its own label."""
        for label in self.model.derived:
            derived = comparison_of(label).derived
            assert derived is not None, f"{label} is not derived"
            seed = dictionaries.derive_seed(self.material.seed, label, self.model.name, layer)
            folder = self.material.run.sae_folder(self.model.name, layer, label)
            dictionaries.save(function_of(derived)(sae, seed, sample), folder)

    def _saved(
        self,
        label: str,
        layer: int,
        sae: SparseAutoencoder,
        text: TokenWindows,
        quality: dictionaries.Quality,
    ) -> Row:
        model = self.model
        tokenizer = text.tokenizer_fingerprint
        facts: Row = {"ref": model.ref, "revision": model.revision, "tokenizer": tokenizer}
        limits = limits_in(self.material.run, model.name)
        facts |= {"sinks": sorted(limits)} if limits and not model.saes else {}
        sae = replace(sae, metadata={**sae.metadata, **facts})
        folder = self.material.run.sae_folder(model.name, layer, label)
        dictionaries.save(sae, folder, quality)
        origin = sae.metadata.get("origin") or {}
        row = quality_row(model.name, label, layer, sae, sparsity_of(sae), quality)
        note = mismatch(model, sae, tokenizer) or missed_target(model.name, layer, sae, quality)
        place = {} if model.site == STREAM_AFTER else {"site": model.site}
        return row | {"origin": origin.get("ref"), "note": note} | place


def sae_settings(recipe: Recipe, model: StudyModel) -> Sae:
    """What the dictionaries of a model are trained with."""
    return recipe.sae.with_own(dict(model.settings))


def tokens_to_learn(recipe: Recipe, model: StudyModel) -> int:
    """How many tokens the dictionaries of a model learn from, each `epochs` times."""
    return min(recipe.corpus.train_tokens, sae_settings(recipe, model).tokens or sys.maxsize)


def text_to_learn(material: Material, model: StudyModel) -> TokenWindows:
    """The windows of those tokens, as the model's tokenizer cuts them."""
    text, tokens = material.windows(TRAIN, model.name), sae_settings(material.recipe, model).tokens
    return text if tokens is None else text[: -(-tokens // text.context)]


def training_config(recipe: Recipe, model: StudyModel) -> TrainingConfig:
    """How the dictionaries of a model are trained."""
    sae = sae_settings(recipe, model)
    n_tokens = tokens_to_learn(recipe, model) * sae.epochs
    return TrainingConfig(n_tokens=n_tokens, seed=recipe.run.seed, **sae.training)


def missed_target(
    model: str, layer: int, sae: SparseAutoencoder, quality: dictionaries.Quality
) -> str | None:
    """In words, that a dictionary does not hold the L0 that was asked for."""
    target = (sae.metadata.get("config") or {}).get(TARGET)
    if target is None or abs(quality.l0 / target - 1) <= TOLERANCE:
        return None
    return (
        f"{model}, layer {layer}: target_l0 is {target:g}, and L0 is {quality.l0:.1f} on text held "
        f"out, with {kind_of(sae.kind).sparsity} = {sparsity_of(sae):.3g}; longer training holds "
        "it better"
    )


def sparsity_of(sae: SparseAutoencoder) -> float | None:
    """The setting that made the dictionary as sparse as it is; None where its file says none."""
    value = sae.k or (sae.metadata.get("config") or {}).get(kind_of(sae.kind).sparsity)
    return None if value is None else float(value)
