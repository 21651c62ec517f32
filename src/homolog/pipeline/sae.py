"""Dictionaries of one model on their own: text -> residuals -> dictionaries of all layers and seeds
-> their quality.

Everything is trained on one stream of residuals from one forward pass over the text.  The run
folder is that of a study with the stages that it needs: the same --out continues, other settings
are refused, and `homolog verify` reads it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from homolog import dictionaries
from homolog.axes import Activations
from homolog.corpus import TokenWindows, fingerprint
from homolog.dictionaries import (
    ActivationSource,
    KindSettings,
    SparseAutoencoder,
    StoredResiduals,
    TrainingConfig,
    parse_config,
)
from homolog.dictionaries.trackers import Tracker, opened, tensorboard, weights_and_biases
from homolog.dictionaries.training.device_state import check_device
from homolog.errors import InputError
from homolog.features import Pool, StreamedResiduals, write_residuals
from homolog.features.splicing import clean_loss, full_residuals, measure_on_text
from homolog.features.streamed import device_memory
from homolog.matching import max_pearson
from homolog.models import LanguageModel, load
from homolog.models.load import commit_of
from homolog.pipeline.finish import beginning_missed, quality_row
from homolog.pipeline.inputs import read_facts, text_input, tokenizer_input, weights_input
from homolog.pipeline.recipes import sparsity_of
from homolog.pipeline.sae_text import Text, hold_out, read_text
from homolog.progress import Bar, Progress
from homolog.record.atomic import sha256_bytes
from homolog.record.inputs import Input
from homolog.record.receipts import read_receipt, write_receipt
from homolog.record.recipe import SaeRecipe
from homolog.record.run_folder import RunFolder
from homolog.record.tables import SAES
from homolog.reference import resolve

STORE_BYTES = 16 << 30  # residuals that are stored without being asked for
MEMORY_SHARE = 0.8  # of the device's memory that dictionaries in training may take
POOL_SHARE = 0.25  # of the device's memory that a pool may take; a larger one lies in main memory
BYTES_A_WEIGHT = 16  # weight, two moments, copy for products
MOST_CHECKPOINTS = 10
LEAST_FIRINGS = 30  # of the features that two seeds are compared by
Row = dict[str, Any]


@dataclass(frozen=True)
class TrainingInputs:
    """What has to be known before a folder is made."""

    model: LanguageModel
    tokenizer: str
    layers: list[int]
    config: KindSettings
    train: TokenWindows
    heldout: TokenWindows
    text: Text
    read: dict[str, Any]
    """Of the text: `read_facts`."""
    streamed: StreamedResiduals | None
    """None: the residuals are stored first."""


def finished(recipe: SaeRecipe, out: Path) -> list[Row] | None:
    """The rows of this run's dictionaries, if it is complete in `out` and every file as it was
    written; else None.
    """
    try:
        run = RunFolder(out)
    except InputError:
        return None
    stage = f"dictionaries {recipe.name}"
    complete = run.recipe == recipe.values() and all(
        run.is_done(name) for name in (stage, "tables")
    )
    complete = complete and run.reads_the_same(_inputs(recipe, str))
    return run.facts(stage)["saes"] if complete else None


def train_saes(
    recipe: SaeRecipe,
    out: Path,
    progress: Progress,
    *,
    checkpoint_every: int | None = None,
    workers: int | None = None,
    wandb: str | None = None,
    tensorboard_folder: Path | None = None,
) -> list[Row]:
    """Train, judge and save the dictionaries in the run folder `out`, or continue there; a row a
    dictionary.

    checkpoint_every: tokens between checkpoints; by default a million, and ten in a short
    training.  workers: threads.
    wandb: a project of Weights & Biases that is told how it goes; tensorboard_folder: the same for
    TensorBoard. Raises InputError for a model, text or folder that cannot be used, before a folder
    is made where possible, and TrainingDivergedError.
    """
    if (rows := finished(recipe, out)) is not None:
        return rows
    fresh = not (out / "run.json").exists()
    prepared = _prepare(recipe, progress) if fresh else None
    run = RunFolder.open(out, recipe.values())
    try:
        prepared = prepared or _prepare(recipe, progress)
        run.check_inputs(
            _inputs(recipe, partial(sha256_bytes, prepared.train.hash, prepared.heldout.hash))
        )
        _note_facts(run, recipe, prepared)
        stage = f"dictionaries {recipe.name}"
        if not run.is_done(stage):
            outputs = [
                run.sae_folder(recipe.name, layer, label)
                for label in recipe.labels
                for layer in prepared.layers
            ]
            trackers = _trackers(run, recipe, wandb, tensorboard_folder)
            with run.stage(stage, outputs) as facts, opened(trackers) as track:
                trained = _train(run, recipe, prepared, progress, track, checkpoint_every, workers)
                facts["saes"] = rows = _judge_and_save(
                    run, recipe, prepared, trained, progress, track
                )
                facts["model"] = _facts_of_model(recipe, prepared, rows)
                run.note(
                    warnings=beginning_missed(
                        prepared.model, recipe.name, prepared.heldout, progress
                    )
                )
            run.note(models=[run.facts(stage)["model"]])
        rows = run.facts(stage)["saes"]
        with run.stage("tables", [run.table(SAES)]):
            SAES.write(SAES.frame(rows), run.table(SAES))
        run.drop_cache()
    finally:
        run.close()
    return rows


def chosen_layers(recipe: SaeRecipe, n_layers: int) -> list[int]:
    """The layers of a model that has so many.  InputError where it does not have one of them."""
    chosen = list(range(n_layers) if recipe.layers is None else recipe.layers)
    if unknown := [layer for layer in chosen if layer not in range(n_layers)]:
        requirement = f"{recipe.model} has layers 0 to {n_layers - 1}"
        raise InputError("--layers", unknown[0], requirement, "Choose of these.")
    return chosen


def training_config(recipe: SaeRecipe) -> TrainingConfig:
    """How the dictionaries are trained."""
    return TrainingConfig(
        n_tokens=recipe.tokens,
        batch_size=recipe.batch,
        learning_rate=recipe.lr,
        seed=recipe.seed,
    )


def usable_device(name: str) -> torch.device:
    """The device of that name.  InputError where torch does not know or see it."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(
            "--device", name, "it is the name of no device", "Give cpu, cuda, cuda:1 or mps."
        ) from None
    check_device(device)
    return device


def seed_agreement(
    a: SparseAutoencoder, b: SparseAutoencoder, x: Activations, least: int = LEAST_FIRINGS
) -> float:
    """How alike two dictionaries of one layer are: the mean, over the features of both that fire on
    at least `least` of the tokens x (token, d_model), of the highest Pearson correlation with a
    feature of the other.  NaN without such.
    """
    f, g = a.encode_sparse(x), b.encode_sparse(x)
    best = max_pearson(f, g)
    sides = ((best.a_to_b, f), (best.b_to_a, g))
    found = [side.r[np.bincount(m.indices, minlength=len(side.r)) >= least, 0] for side, m in sides]
    r = np.concatenate(found)
    r = r[np.isfinite(r)]
    return float(r.mean()) if r.size else math.nan


def _inputs(recipe: SaeRecipe, text: Callable[[], str]) -> list[Input]:
    """All that is read; text: gives the hash of the tokens."""
    model = recipe.model, recipe.revision
    return [text_input(recipe.text, text), weights_input(*model), tokenizer_input(*model)]


def _prepare(recipe: SaeRecipe, progress: Progress) -> TrainingInputs:
    device = usable_device(recipe.device)
    dtype = getattr(torch, recipe.dtype)
    model = load(recipe.model, revision=recipe.revision, dtype=dtype, device=device)
    tokenizer = fingerprint(model.require_tokenizer())
    model.require_positions(recipe.context, "--context")
    layers = chosen_layers(recipe, model.n_layers)
    config = parse_config(recipe.config(model.d_model))
    _check_memory(len(layers) * len(recipe.labels), model.d_model, config.d_sae, device)
    text = Text(
        recipe.text,
        recipe.field,
        recipe.split,
        recipe.context,
        recipe.shuffle,
        recipe.seed,
    )
    with progress.stage("read the text"):
        whole = read_text(
            text, model.tokenizer, recipe.heldout + recipe.tokens + 2 * recipe.context
        )
        heldout, train, text = hold_out(whole, text, recipe.heldout)
    streamed = None
    if not _stored(recipe, model, train):
        kept_in = getattr(torch, recipe.residuals)
        size = recipe.pool_tokens * len(layers) * model.d_model * kept_in.itemsize
        place = device if size <= POOL_SHARE * device_memory(device) else "cpu"
        streamed = StreamedResiduals(
            model,
            train,
            layers,
            seed=recipe.seed,
            name=recipe.name,
            key=_key(recipe),
            pool=Pool(recipe.pool_tokens, kept_in, place),
        )
    read = read_facts(whole, model.tokenizer)
    return TrainingInputs(model, tokenizer, layers, config, train, heldout, text, read, streamed)


def _key(recipe: SaeRecipe) -> str:
    """Identifies the weights beside the model's name."""
    return f"{recipe.revision} {recipe.dtype}"


def _check_memory(n_dictionaries: int, d_model: int, d_sae: int, device: torch.device) -> None:
    needed, there = n_dictionaries * 2 * d_model * d_sae * BYTES_A_WEIGHT, device_memory(device)
    if needed > MEMORY_SHARE * there:
        raise InputError(
            "--layers",
            f"{n_dictionaries} dictionaries of {d_sae} features",
            f"training takes {needed / 2**30:.0f} GiB, and {device.type} has {there / 2**30:.0f} "
            "GiB",
            "Train fewer layers at a time, each with an --out of its own, fewer --seeds, or a "
            "smaller --d-sae.",
        )


def _stored(recipe: SaeRecipe, model: LanguageModel, train: TokenWindows) -> bool:
    """Whether residuals are stored first: where asked for, or read more than once and not too
    large.
    """
    if recipe.stream != "auto":
        return recipe.stream == "store"
    kept = int(train.mask.sum())
    size = kept * model.n_layers * model.d_model * getattr(torch, recipe.residuals).itemsize
    return recipe.tokens > kept and size <= STORE_BYTES


def _source(
    run: RunFolder, recipe: SaeRecipe, prepared: TrainingInputs, progress: Progress
) -> ActivationSource:
    if prepared.streamed is not None:
        return prepared.streamed
    model, folder = prepared.model, run.residuals_folder(recipe.name)
    with progress.stage("store residuals", prepared.train.n_tokens) as bar:
        write_residuals(
            model,
            prepared.train,
            folder,
            key=f"{model.name} {_key(recipe)}",
            dtype=getattr(torch, recipe.residuals),
            advance=bar.advance,
        )
    return StoredResiduals(folder, seed=recipe.seed, name=recipe.name, layers=prepared.layers)


def _train(
    run: RunFolder,
    recipe: SaeRecipe,
    prepared: TrainingInputs,
    progress: Progress,
    track: Tracker,
    checkpoint_every: int | None,
    workers: int | None,
) -> dict[str, list[SparseAutoencoder]]:
    """The trained dictionaries by label; kept in the cache, so that nothing is trained again when
    measuring fails.
    """
    training, folder = training_config(recipe), run.cache_folder / "trained"
    places = {
        label: [folder / label / str(layer) for layer in prepared.layers] for label in recipe.labels
    }
    receipt, key = folder / "receipt.json", run.record["recipe_hash"]
    if read_receipt(receipt, key) is not None:
        return {
            label: [dictionaries.load(place) for place in places[label]] for label in recipe.labels
        }
    source = _source(run, recipe, prepared, progress)
    total = training.n_steps * training.batch_size
    with progress.stage(
        f"train {len(recipe.labels) * len(prepared.layers)} dictionaries", total
    ) as bar:
        trained = dictionaries.train(
            source,
            prepared.config,
            training,
            model=recipe.name,
            labels=recipe.labels,
            on=dictionaries.Place(recipe.device, workers),
            checkpoint=dictionaries.Checkpoint(
                run.cache_folder / "training.safetensors",
                checkpoint_every or min(1_000_000, max(1, total // MOST_CHECKPOINTS)),
            ),
            progress=_reporter(total, bar, track),
        )
    saved = [
        dictionaries.save(sae, place)
        for label in places
        for sae, place in zip(trained[label], places[label], strict=True)
    ]
    write_receipt(receipt, True, [file for files in saved for file in files], key)
    run.drop_residuals(recipe.name)
    return trained


def _reporter(
    total: int, bar: Bar, track: Tracker
) -> Callable[[dictionaries.TrainingProgress], None]:
    """Tells the display and the trackers what the training says of itself."""
    shown: int | None = None

    def report(p: dictionaries.TrainingProgress) -> None:
        nonlocal shown
        at, pace = total - p.tokens_total + p.tokens_done, p.tokens_done / max(p.seconds, 1e-9)
        if shown is None:
            shown = at - p.tokens_done
            bar.skip(shown)
        words = (
            f"loss {p.loss:.4g}, L0 {p.l0:.1f}, explained {p.explained_variance:.3f}, "
            f"silent {p.silent_share:.0%}, {pace:,.0f} tokens/s"
        )
        bar.advance(at - shown, words)
        shown = at
        track(
            at,
            {
                "loss": p.loss,
                "l0": p.l0,
                "explained_variance": p.explained_variance,
                "silent_share": p.silent_share,
                "tokens_per_second": pace,
            },
        )

    return report


def _trackers(
    run: RunFolder, recipe: SaeRecipe, wandb: str | None, folder: Path | None
) -> Iterator[contextlib.AbstractContextManager[Tracker]]:
    if wandb is not None:
        run_id = run.record.get("wandb") or secrets.token_hex(4)
        run.note(wandb=run_id)
        yield weights_and_biases(
            wandb, run.path, name=run.path.name, run_id=run_id, settings=recipe.values()
        )
    if folder is not None:
        yield tensorboard(folder)


def _judge_and_save(
    run: RunFolder,
    recipe: SaeRecipe,
    prepared: TrainingInputs,
    trained: dict[str, list[SparseAutoencoder]],
    progress: Progress,
    track: Tracker,
) -> list[Row]:
    model, text, rows = prepared.model, prepared.heldout, []
    sparsity = sparsity_of(recipe, model.d_model)
    on_hub = resolve(recipe.model).kind == "hub"
    commit = commit_of(recipe.model, recipe.revision) if on_hub else None
    about = {
        "ref": recipe.model,
        "revision": recipe.revision,
        "commit": commit,
        "tokenizer": prepared.tokenizer,
        "text": prepared.text.facts(),
    }
    with progress.stage("measure quality", len(recipe.labels) * len(prepared.layers)) as bar:
        residuals, clean = full_residuals(model, text, prepared.layers), clean_loss(model, text)
        for number, layer in enumerate(prepared.layers):
            kept = residuals[layer][torch.from_numpy(text.mask)].float()
            first = trained["sae"][number]
            for label in recipe.labels:
                sae = trained[label][number]
                sae = dataclasses.replace(sae, metadata={**sae.metadata, **about})
                quality = measure_on_text(
                    model, text, residuals[layer], layer, sae, loss_clean=clean
                )
                dictionaries.save(sae, run.sae_folder(recipe.name, layer, label), quality)
                agreement = math.nan if label == "sae" else seed_agreement(first, sae, kept)
                row = quality_row(recipe.name, label, layer, sae, sparsity, quality)
                row["seed_agreement"] = None if math.isnan(agreement) else agreement
                rows.append(row)
                _track_quality(track, training_config(recipe), row)
                bar.advance()
    return sorted(rows, key=lambda row: (recipe.labels.index(row["label"]), row["layer"]))


def _track_quality(track: Tracker, training: TrainingConfig, row: Row) -> None:
    names = ("explained_variance", "l0", "dead_share", "loss_recovered", "seed_agreement")
    where = f"heldout/{row['label']}/{row['layer']}"
    known = {f"{where}/{name}": row[name] for name in names if row[name] is not None}
    track(training.n_steps * training.batch_size, known)


def _facts_of_model(recipe: SaeRecipe, prepared: TrainingInputs, rows: list[Row]) -> Row:
    model = prepared.model
    return {
        "name": recipe.name,
        "ref": recipe.model,
        "role": "on its own",
        "architecture": model.architecture,
        "n_layers": model.n_layers,
        "d_model": model.d_model,
        "n_parameters": model.n_parameters,
        "heldout_loss": rows[0]["loss_clean"],
    }


def _note_facts(run: RunFolder, recipe: SaeRecipe, prepared: TrainingInputs) -> None:
    train, heldout = prepared.train, prepared.heldout
    run.note(
        name=run.path.name,
        device=recipe.device,
        corpus={
            "sources": [recipe.text],
            "tokenizer": prepared.tokenizer,
            "context": recipe.context,
            "hash": train.hash,
            "train_tokens": train.n_tokens,
            "train_documents": train.n_documents,
            "heldout_hash": heldout.hash,
            "heldout_tokens": int(heldout.mask.sum()),
            "heldout_documents": heldout.n_documents,
            **prepared.read,
        },
        stream="store" if prepared.streamed is None else "pool",
    )
