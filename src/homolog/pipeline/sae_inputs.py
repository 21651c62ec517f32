"""What a training of dictionaries needs before a folder is made: model, text, layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from homolog.corpus import TokenWindows, fingerprint
from homolog.dictionaries import KindSettings, TrainingConfig, parse_config
from homolog.dictionaries.training.device_state import check_device
from homolog.dictionaries.variance import SINK_SHARE
from homolog.errors import InputError
from homolog.features import Pool, StreamedResiduals
from homolog.features.beginnings import Beginning, checked_beginning
from homolog.features.sinks import Limits, find_sinks, limits_of, measure_norms, without_places
from homolog.features.streamed import device_memory
from homolog.models import LanguageModel, load
from homolog.pipeline.inputs import read_facts, text_input, tokenizer_input, weights_input
from homolog.pipeline.sae_text import Text, hold_out, read_text
from homolog.pipeline.sinks import MASK, sink_rows, sinks_note
from homolog.progress import Progress
from homolog.record.inputs import Input
from homolog.record.layers import STREAM_AFTER, chosen_layers
from homolog.record.recipe import SaeRecipe
from homolog.record.run_folder import RunFolder

STORE_BYTES = 16 << 30  # residuals that are stored without being asked for
MEMORY_SHARE = 0.8  # of the device's memory that dictionaries in training may take
BYTES_A_WEIGHT = 16  # weight, two moments, copy for products
Row = dict[str, Any]


@dataclass(frozen=True)
class SinksOfText:
    """The limits of a model's sink layers as a text shows them, and how many sinks it has.

    rows: as run.json says them (`sink_rows`).
    """

    limits: Limits
    n_masked: int
    rows: list[Row]


def masked_sinks(
    model: LanguageModel, text: TokenWindows, layers: Sequence[int]
) -> tuple[TokenWindows, SinksOfText]:
    """A text without a model's sinks."""
    norms = measure_norms(model, text, layers)
    limits = limits_of(norms)
    if not limits:
        return text, SinksOfText({}, 0, [])
    sinks = find_sinks(model, text, limits)
    known = SinksOfText(limits, len(sinks.places), sink_rows(norms, limits, sinks))
    return without_places(text, sinks.places), known


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
    sinks: SinksOfText
    """Those of the text held out, where they are masked; all of the model's are left out of the
    training.
    """
    beginning: Beginning | None
    """What a token before every window is worth; None where there is none."""
    streamed: StreamedResiduals | None
    """None: the residuals are stored first."""


def training_config(recipe: SaeRecipe) -> TrainingConfig:
    """How the dictionaries are trained."""
    return TrainingConfig(n_tokens=recipe.tokens, seed=recipe.seed, **recipe.training)


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


def inputs_of(recipe: SaeRecipe, text: Callable[[], str]) -> list[Input]:
    """All that is read; text: gives the hash of the tokens."""
    model = recipe.model, recipe.revision
    return [text_input(recipe.text, text), weights_input(*model), tokenizer_input(*model)]


def prepare(recipe: SaeRecipe, progress: Progress) -> TrainingInputs:
    device = usable_device(recipe.device)
    dtype = getattr(torch, recipe.dtype)
    model = load(recipe.model, revision=recipe.revision, dtype=dtype, device=device)
    model = _placed(model.begun(recipe.bos), recipe.site)
    tokenizer = fingerprint(model.require_tokenizer())
    model.require_positions(recipe.context, "--context")
    layers = list(chosen_layers(recipe.layers, model.n_layers, recipe.model, "--layers"))
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
    beginning = checked_beginning(recipe.name, model, heldout, recipe.bos)
    sinks, streamed = SinksOfText({}, 0, []), None
    if recipe.sinks == MASK:
        heldout, sinks = masked_sinks(model, heldout, layers)
    if not _stored(recipe, model, train, len(layers)):
        kept_in, width = getattr(torch, recipe.residuals), len(layers) * model.d_model
        streamed = StreamedResiduals(
            model,
            train,
            layers,
            seed=recipe.seed,
            name=recipe.name,
            key=weights_key(recipe, model),
            pool=Pool.on(device, recipe.pool_tokens, kept_in, width),
            limits=sinks.limits,
        )
    read = read_facts(whole, model.tokenizer)
    of_model, of_text = (model, tokenizer, layers, config), (train, heldout, text, read, sinks)
    return TrainingInputs(*of_model, *of_text, beginning, streamed)


def weights_key(recipe: SaeRecipe, model: LanguageModel) -> str:
    """Identifies the weights beside the model's name, and what windows begin with."""
    begun = "" if model.bos is None else f" after {model.bos}"
    there = "" if model.place == STREAM_AFTER else f" at {model.place}"
    return f"{recipe.revision} {recipe.dtype}{begun}{there}"


def _placed(model: LanguageModel, site: str) -> LanguageModel:
    try:
        return model.placed(site)
    except InputError as error:
        raise error.about("--site") from error


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


def _stored(recipe: SaeRecipe, model: LanguageModel, train: TokenWindows, n_layers: int) -> bool:
    """Whether residuals are stored first: where asked for, or read more than once and not too
    large.
    """
    if recipe.stream != "auto":
        return recipe.stream == "store"
    kept = int(train.mask.sum())
    size = kept * n_layers * model.d_model * getattr(torch, recipe.residuals).itemsize
    return recipe.tokens > kept and size <= STORE_BYTES


def facts_of_model(recipe: SaeRecipe, prepared: TrainingInputs, rows: list[Row]) -> Row:
    model, beginning = prepared.model, prepared.beginning
    facts = {} if beginning is None else {"beginning": beginning.facts()}
    facts |= {} if model.place == STREAM_AFTER else {"site": model.place}
    return facts | {
        "name": recipe.name,
        "ref": recipe.model,
        "role": "on its own",
        "architecture": model.architecture,
        "n_layers": model.n_layers,
        "layers": prepared.layers,
        "d_model": model.d_model,
        "n_parameters": model.n_parameters,
        "heldout_loss": rows[0]["loss_clean"],
    }


def note_facts(run: RunFolder, recipe: SaeRecipe, prepared: TrainingInputs) -> None:
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
            "heldout_hash": prepared.text.heldout_hash,
            "heldout_tokens": int(heldout.mask.sum()),
            "heldout_documents": heldout.n_documents,
            **prepared.read,
        },
        stream="store" if prepared.streamed is None else "pool",
        **_sinks_note(recipe, prepared.sinks),
    )


def _sinks_note(recipe: SaeRecipe, sinks: SinksOfText) -> dict[str, Any]:
    """What run.json says of the sinks that are masked."""
    if recipe.sinks != MASK:
        return {}
    of_model = [{"model": recipe.name} | row for row in sinks.rows]
    return {"sinks": sinks_note(SINK_SHARE, {"": sinks.n_masked}, of_model)}
