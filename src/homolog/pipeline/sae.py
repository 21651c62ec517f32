"""Dictionaries of one model on their own: residuals -> all layers and seeds -> their quality.

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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from homolog import dictionaries
from homolog.axes import Activations
from homolog.dictionaries import (
    ActivationSource,
    SparseAutoencoder,
    StoredResiduals,
    TrainingConfig,
)
from homolog.dictionaries.formats import said_at
from homolog.dictionaries.trackers import Tracker, opened, tensorboard, weights_and_biases
from homolog.errors import InputError
from homolog.features import write_residuals
from homolog.features.splicing import clean_loss, full_residuals, measure_on_text
from homolog.matching import max_pearson
from homolog.models.load import commit_of
from homolog.pipeline.beginnings import warnings_of_beginnings
from homolog.pipeline.finish import quality_row
from homolog.pipeline.recipes import sparsity_of
from homolog.pipeline.sae_inputs import (
    TrainingInputs,
    facts_of_model,
    inputs_of,
    note_facts,
    prepare,
    training_config,
    weights_key,
)
from homolog.progress import Bar, Progress, Speed
from homolog.record.atomic import sha256_bytes
from homolog.record.layers import STREAM_AFTER
from homolog.record.receipts import read_receipt, write_receipt
from homolog.record.recipe import SaeRecipe
from homolog.record.run_folder import RunFolder
from homolog.record.tables import SAES
from homolog.reference import resolve

MOST_CHECKPOINTS = 10
LEAST_FIRINGS = 30  # of the features that two seeds are compared by
Row = dict[str, Any]


def finished(recipe: SaeRecipe, out: Path) -> list[Row] | None:
    """The rows of this run's dictionaries, if all of it is complete in `out` and as it was."""
    try:
        run = RunFolder(out)
    except InputError:
        return None
    stage = f"dictionaries {recipe.name}"
    complete = run.recipe == recipe.values() and all(
        run.is_done(name) for name in (stage, "tables")
    )
    complete = complete and run.reads_the_same(inputs_of(recipe, str))
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
    """Train, measure and save the dictionaries in the run folder `out`, or continue there.

    Returns one row per dictionary.

    checkpoint_every: tokens between checkpoints; by default a million, and ten in a short
    training.  workers: threads.
    wandb: a project of Weights & Biases that is told how it goes; tensorboard_folder: the same for
    TensorBoard. Raises InputError for a model, text or folder that cannot be used, before a folder
    is made where possible, and TrainingDivergedError.
    """
    if (rows := finished(recipe, out)) is not None:
        return rows
    fresh = not (out / "run.json").exists()
    prepared = prepare(recipe, progress) if fresh else None
    run = RunFolder.open(out, recipe.values())
    try:
        prepared = prepared or prepare(recipe, progress)
        run.check_inputs(
            inputs_of(
                recipe, partial(sha256_bytes, prepared.train.hash, prepared.text.heldout_hash)
            )
        )
        note_facts(run, recipe, prepared)
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
                facts["saes"] = rows = _measure_and_save(
                    run, recipe, prepared, trained, progress, track
                )
                facts["model"] = facts_of_model(recipe, prepared, rows)
                beginning = prepared.beginning
                run.note(warnings=warnings_of_beginnings(recipe.name, beginning, progress))
            run.note(models=[run.facts(stage)["model"]])
        rows = run.facts(stage)["saes"]
        with run.stage("tables", [run.table(SAES)]):
            SAES.write(SAES.frame(rows), run.table(SAES))
        run.drop_cache()
    finally:
        run.close()
    return rows


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
    best_r = [
        side.r[np.bincount(m.indices, minlength=len(side.r)) >= least, 0] for side, m in sides
    ]
    r = np.concatenate(best_r)
    r = r[np.isfinite(r)]
    return float(r.mean()) if r.size else math.nan


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
            key=f"{model.name} {weights_key(recipe, model)}",
            dtype=getattr(torch, recipe.residuals),
            limits=prepared.sinks.limits,
            advance=bar.advance,
            layers=prepared.layers,
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
    total = training.n_steps * training.batch
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
    speed = Speed()

    def report(p: dictionaries.TrainingProgress) -> None:
        nonlocal shown
        at = total - p.tokens_total + p.tokens_done
        if shown is None:
            shown = at - p.tokens_done
            bar.skip(shown)
        speed.advance(at - shown)
        words = (
            f"loss {p.loss:.4g}, L0 {p.l0:.1f}, explained {p.explained_variance:.3f}, "
            f"silent {p.silent_share:.0%}, {speed.per_second:,.0f} tokens/s"
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
                "tokens_per_second": speed.per_second,
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


def _measure_and_save(
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
        **({} if model.bos is None else {"bos": True}),
        **({"sinks": sorted(prepared.sinks.limits)} if prepared.sinks.limits else {}),
    }
    with progress.stage("measure quality", len(recipe.labels) * len(prepared.layers)) as bar:
        residuals, clean = full_residuals(model, text, prepared.layers), clean_loss(model, text)
        for number, layer in enumerate(prepared.layers):
            kept = residuals[layer][torch.from_numpy(text.mask)].float()
            first = trained["sae"][number]
            for label in recipe.labels:
                sae = trained[label][number]
                sae = said_at(sae, str(model.own_site(layer)))
                sae = dataclasses.replace(sae, metadata={**sae.metadata, **about})
                quality = measure_on_text(
                    model, text, residuals[layer], layer, sae, loss_clean=clean
                )
                dictionaries.save(sae, run.sae_folder(recipe.name, layer, label), quality)
                agreement = math.nan if label == "sae" else seed_agreement(first, sae, kept)
                row = quality_row(recipe.name, label, layer, sae, sparsity, quality)
                row["seed_agreement"] = None if math.isnan(agreement) else agreement
                row |= {} if model.place == STREAM_AFTER else {"site": model.place}
                rows.append(row)
                _track_quality(track, training_config(recipe), row)
                bar.advance()
    return sorted(rows, key=lambda row: (recipe.labels.index(row["label"]), row["layer"]))


def _track_quality(track: Tracker, training: TrainingConfig, row: Row) -> None:
    names = ("explained_variance", "l0", "dead_share", "loss_recovered", "seed_agreement")
    where = f"heldout/{row['label']}/{row['layer']}"
    known = {f"{where}/{name}": row[name] for name in names if row[name] is not None}
    track(training.n_steps * training.batch, known)
