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
import polars as pl
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
)
from homolog.dictionaries.trackers import Tracker, opened, tensorboard, weights_and_biases
from homolog.dictionaries.training.device_state import check_device
from homolog.errors import InputError
from homolog.features import StreamedResiduals, write_residuals
from homolog.features.splicing import clean_loss, full_residuals, measure_on_text
from homolog.features.streamed import device_memory
from homolog.matching import max_pearson
from homolog.models import LanguageModel, load
from homolog.models.load import commit_of
from homolog.pipeline.finish import beginning_missed, quality_row, write_table
from homolog.pipeline.inputs import read_facts, text_input, tokenizer_input, weights_input
from homolog.pipeline.sae_settings import SaeSettings
from homolog.pipeline.sae_text import Text, hold_out, read_text
from homolog.progress import Bar, Progress
from homolog.record.atomic import sha256_bytes
from homolog.record.inputs import Input
from homolog.record.receipts import read_receipt, write_receipt
from homolog.record.run_folder import RunFolder
from homolog.reference import resolve

STORE_BYTES = 16 << 30  # residuals that are stored without being asked for
MEMORY_SHARE = 0.8  # of the device's memory that dictionaries in training may take
POOL_SHARE = 0.25  # of the device's memory that a pool may take; a larger one lies in main memory
BYTES_A_WEIGHT = 16  # weight, two moments, copy for products
MOST_CHECKPOINTS = 10
LEAST_FIRINGS = 30  # of the features that two seeds are compared by
MAY_BE_NULL = {"seed_agreement": pl.Float64, "loss_recovered": pl.Float64, "bos_share": pl.Float64}
Row = dict[str, Any]


@dataclass(frozen=True)
class Prepared:
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


def finished(settings: SaeSettings, out: Path) -> list[Row] | None:
    """The rows of this run's dictionaries, if it is complete in `out` and every file as it was
    written; else None.
    """
    try:
        run = RunFolder(out)
    except InputError:
        return None
    stage = f"dictionaries {settings.name}"
    complete = run.recipe == settings.values() and all(
        run.is_done(name) for name in (stage, "tables")
    )
    complete = complete and run.reads_the_same(_inputs(settings, str))
    return run.facts(stage)["saes"] if complete else None


def train_saes(
    settings: SaeSettings,
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
    if (rows := finished(settings, out)) is not None:
        return rows
    fresh = not (out / "run.json").exists()
    prepared = _prepare(settings, progress) if fresh else None
    run = RunFolder.open(out, settings.values())
    try:
        prepared = prepared or _prepare(settings, progress)
        run.check_inputs(
            _inputs(settings, partial(sha256_bytes, prepared.train.hash, prepared.heldout.hash))
        )
        _note_facts(run, settings, prepared)
        stage = f"dictionaries {settings.name}"
        if not run.is_done(stage):
            outputs = [
                run.sae_folder(settings.name, layer, label)
                for label in settings.labels
                for layer in prepared.layers
            ]
            trackers = _trackers(run, settings, wandb, tensorboard_folder)
            with run.stage(stage, outputs) as facts, opened(trackers) as track:
                trained = _train(
                    run, settings, prepared, progress, track, checkpoint_every, workers
                )
                facts["saes"] = rows = _judge_and_save(
                    run, settings, prepared, trained, progress, track
                )
                facts["model"] = _facts_of_model(settings, prepared, rows)
                run.note(
                    warnings=beginning_missed(
                        prepared.model, settings.name, prepared.heldout, progress
                    )
                )
            run.note(models=[run.facts(stage)["model"]])
        rows = run.facts(stage)["saes"]
        with run.stage("tables", [run.saes_table]):
            table = pl.DataFrame(rows, infer_schema_length=None, schema_overrides=MAY_BE_NULL)
            write_table(table, run.saes_table)
        run.drop_cache()
    finally:
        run.close()
    return rows


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


def _inputs(settings: SaeSettings, text: Callable[[], str]) -> list[Input]:
    """All that is read; text: gives the hash of the tokens."""
    model = settings.model, settings.revision
    return [text_input(settings.text, text), weights_input(*model), tokenizer_input(*model)]


def _prepare(settings: SaeSettings, progress: Progress) -> Prepared:
    device = usable_device(settings.device)
    dtype = getattr(torch, settings.dtype)
    model = load(settings.model, revision=settings.revision, dtype=dtype, device=device)
    tokenizer = fingerprint(model.require_tokenizer())
    model.require_positions(settings.context, "--context")
    layers, config = settings.chosen_layers(model.n_layers), settings.config(model.d_model)
    _check_memory(len(layers) * len(settings.labels), model.d_model, config.d_sae, device)
    text = Text(
        settings.text,
        settings.field,
        settings.split,
        settings.context,
        settings.shuffle,
        settings.seed,
    )
    with progress.stage("read the text"):
        whole = read_text(
            text, model.tokenizer, settings.heldout + settings.tokens + 2 * settings.context
        )
        heldout, train, text = hold_out(whole, text, settings.heldout)
    streamed = None
    if not _stored(settings, model, train):
        kept_in = getattr(torch, settings.residuals)
        size = settings.pool_tokens * len(layers) * model.d_model * kept_in.itemsize
        streamed = StreamedResiduals(
            model,
            train,
            layers,
            seed=settings.seed,
            name=settings.name,
            key=_key(settings),
            pool_tokens=settings.pool_tokens,
            dtype=kept_in,
            device=device if size <= POOL_SHARE * device_memory(device) else "cpu",
        )
    read = read_facts(whole, model.tokenizer)
    return Prepared(model, tokenizer, layers, config, train, heldout, text, read, streamed)


def _key(settings: SaeSettings) -> str:
    """Identifies the weights beside the model's name."""
    return f"{settings.revision} {settings.dtype}"


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


def _stored(settings: SaeSettings, model: LanguageModel, train: TokenWindows) -> bool:
    """Whether residuals are stored first: where asked for, or read more than once and not too
    large.
    """
    if settings.stream != "auto":
        return settings.stream == "store"
    kept = int(train.mask.sum())
    size = kept * model.n_layers * model.d_model * getattr(torch, settings.residuals).itemsize
    return settings.tokens > kept and size <= STORE_BYTES


def _source(
    run: RunFolder, settings: SaeSettings, prepared: Prepared, progress: Progress
) -> ActivationSource:
    if prepared.streamed is not None:
        return prepared.streamed
    model, folder = prepared.model, run.residuals_folder(settings.name)
    with progress.stage("store residuals", prepared.train.n_tokens) as bar:
        write_residuals(
            model,
            prepared.train,
            folder,
            key=f"{model.name} {_key(settings)}",
            dtype=getattr(torch, settings.residuals),
            advance=bar.advance,
        )
    return StoredResiduals(folder, seed=settings.seed, name=settings.name, layers=prepared.layers)


def _train(
    run: RunFolder,
    settings: SaeSettings,
    prepared: Prepared,
    progress: Progress,
    track: Tracker,
    checkpoint_every: int | None,
    workers: int | None,
) -> dict[str, list[SparseAutoencoder]]:
    """The trained dictionaries by label; kept in the cache, so that nothing is trained again when
    measuring fails.
    """
    training, folder = settings.training, run.cache_folder / "trained"
    places = {
        label: [folder / label / str(layer) for layer in prepared.layers]
        for label in settings.labels
    }
    receipt, key = folder / "receipt.json", run.record["recipe_hash"]
    if read_receipt(receipt, key) is not None:
        return {
            label: [dictionaries.load(place) for place in places[label]]
            for label in settings.labels
        }
    source = _source(run, settings, prepared, progress)
    total = training.n_steps * training.batch_size
    with progress.stage(
        f"train {len(settings.labels) * len(prepared.layers)} dictionaries", total
    ) as bar:
        trained = dictionaries.train(
            source,
            prepared.config,
            training,
            model=settings.name,
            labels=settings.labels,
            on=dictionaries.Place(settings.device, workers),
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
    run.drop_residuals(settings.name)
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
    run: RunFolder, settings: SaeSettings, wandb: str | None, folder: Path | None
) -> Iterator[contextlib.AbstractContextManager[Tracker]]:
    if wandb is not None:
        run_id = run.record.get("wandb") or secrets.token_hex(4)
        run.note(wandb=run_id)
        yield weights_and_biases(
            wandb, run.path, name=run.path.name, run_id=run_id, settings=settings.values()
        )
    if folder is not None:
        yield tensorboard(folder)


def _judge_and_save(
    run: RunFolder,
    settings: SaeSettings,
    prepared: Prepared,
    trained: dict[str, list[SparseAutoencoder]],
    progress: Progress,
    track: Tracker,
) -> list[Row]:
    model, text, rows = prepared.model, prepared.heldout, []
    on_hub = resolve(settings.model).kind == "hub"
    commit = commit_of(settings.model, settings.revision) if on_hub else None
    about = {
        "ref": settings.model,
        "revision": settings.revision,
        "commit": commit,
        "tokenizer": prepared.tokenizer,
        "text": prepared.text.facts(),
    }
    with progress.stage("measure quality", len(settings.labels) * len(prepared.layers)) as bar:
        residuals, clean = full_residuals(model, text, prepared.layers), clean_loss(model, text)
        for number, layer in enumerate(prepared.layers):
            kept = residuals[layer][torch.from_numpy(text.mask)].float()
            first = trained["sae"][number]
            for label in settings.labels:
                sae = trained[label][number]
                sae = dataclasses.replace(sae, metadata={**sae.metadata, **about})
                quality = measure_on_text(
                    model, text, residuals[layer], layer, sae, loss_clean=clean
                )
                dictionaries.save(sae, run.sae_folder(settings.name, layer, label), quality)
                agreement = math.nan if label == "sae" else seed_agreement(first, sae, kept)
                row = quality_row(settings.name, label, layer, sae, settings.sparsity, quality)
                row["seed_agreement"] = None if math.isnan(agreement) else agreement
                rows.append(row)
                _track_quality(track, settings.training, row)
                bar.advance()
    return sorted(rows, key=lambda row: (settings.labels.index(row["label"]), row["layer"]))


def _track_quality(track: Tracker, training: TrainingConfig, row: Row) -> None:
    names = ("explained_variance", "l0", "dead_share", "loss_recovered", "seed_agreement")
    where = f"heldout/{row['label']}/{row['layer']}"
    known = {f"{where}/{name}": row[name] for name in names if row[name] is not None}
    track(training.n_steps * training.batch_size, known)


def _facts_of_model(settings: SaeSettings, prepared: Prepared, rows: list[Row]) -> Row:
    model = prepared.model
    return {
        "name": settings.name,
        "ref": settings.model,
        "role": "on its own",
        "architecture": model.architecture,
        "n_layers": model.n_layers,
        "d_model": model.d_model,
        "n_parameters": model.n_parameters,
        "heldout_loss": rows[0]["loss_clean"],
    }


def _note_facts(run: RunFolder, settings: SaeSettings, prepared: Prepared) -> None:
    train, heldout = prepared.train, prepared.heldout
    run.note(
        name=run.path.name,
        device=settings.device,
        corpus={
            "sources": [settings.text],
            "tokenizer": prepared.tokenizer,
            "context": settings.context,
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
