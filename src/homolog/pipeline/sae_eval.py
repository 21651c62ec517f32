"""How good one dictionary is, whoever trained it: its quality on text, and whether that is what its
file says.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch

from homolog import dictionaries
from homolog.corpus import TokenWindows, fingerprint
from homolog.dictionaries import Quality, SparseAutoencoder, saved_quality
from homolog.dictionaries.formats import is_of, site_of
from homolog.dictionaries.quality import RECHECK_TOKENS, recheck
from homolog.dictionaries.variance import SINK_NORM
from homolog.errors import InputError
from homolog.features.beginnings import checked_beginning
from homolog.features.splicing import clean_loss, full_residuals, measure_on_text
from homolog.models import LanguageModel, load
from homolog.models.beginning import AUTO, FALSE, TRUE
from homolog.pipeline.sae_inputs import masked_sinks, usable_device
from homolog.pipeline.sae_text import Text, heldout_again, read_text
from homolog.progress import Progress
from homolog.record.layers import STREAM_AFTER
from homolog.record.recipe import EvaluationRecipe

DEFAULT_TEXT = "zoo:demo"


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a dictionary, and on what."""

    ref: str
    model: str
    model_of_file: str | None
    """The name in the file, where that is another one."""
    layer: int
    kind: str
    d_sae: int
    text: str
    """In words."""
    quality: Quality
    carried: Quality | None
    """What the file says."""
    agrees: bool | None
    """Whether explained variance and L0 are those of the file, within tolerance; None where that
    was not checked.
    """
    notes: tuple[str, ...]

    def values(self) -> dict[str, Any]:
        """As JSON values; None for what is undefined."""
        facts = {
            name: getattr(self, name)
            for name in (
                "ref",
                "model",
                "model_of_file",
                "layer",
                "kind",
                "d_sae",
                "text",
                "agrees",
            )
        }
        return {
            **facts,
            "quality": _plain(self.quality),
            "carried": self.carried and _plain(self.carried),
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """For people."""
        q, c = self.quality, self.carried
        rows = [
            ("explained variance", q.explained_variance, c and c.explained_variance, ".3f"),
            ("L0", q.l0, c and c.l0, ".1f"),
            ("dead share", q.dead_share, c and c.dead_share, ".1%"),
            ("dense share", q.dense_share, c and c.dense_share, ".1%"),
            ("loss recovered", q.loss_recovered, c and c.loss_recovered, ".3f"),
            (
                "loss clean / spliced / ablated",
                (q.loss_clean, q.loss_spliced, q.loss_ablated),
                None,
                ".3f",
            ),
        ]
        other = f"   (its file: {self.model_of_file})" if self.model_of_file else ""
        lines = [
            f"{self.kind}, {self.d_sae} features, {self.model} layer {self.layer}{other}",
            f"{q.n_tokens} tokens of {self.text}",
        ]
        for name, measured, carried, form in rows:
            values = measured if isinstance(measured, tuple) else (measured,)
            said = (
                "" if carried is None or math.isnan(carried) else f"   (its file: {carried:{form}})"
            )
            lines.append(
                f"  {name:<32}{' / '.join(_number(value, form) for value in values)}{said}"
            )
        lines.append(f"gates: {q.reason}")
        return lines + list(self.notes)


def evaluate_sae(recipe: EvaluationRecipe, progress: Progress) -> Evaluation:
    """Measure the dictionary `recipe.sae` (see `dictionaries.load`) in its model.

    Raises InputError for a dictionary that cannot be read or is of another width, place, layer or
    tokenizer, a missing model or layer, and text that cannot be read.  Names of models are not
    compared so strictly, for libraries name one model differently: another name is said.
    """
    ref, sae = recipe.sae, dictionaries.load(recipe.sae)
    where, kind, number = _place(ref, sae, recipe)
    revision = recipe.revision
    if revision is None and recipe.model is None:
        revision = sae.metadata.get("revision")
    device, dtype = usable_device(recipe.device), getattr(torch, recipe.dtype)
    bos = _bos(sae, recipe)
    model = load(where, revision=revision, dtype=dtype, device=device).begun(bos).placed(kind)
    _check_fits(ref, sae, model, number)
    with progress.stage("read the text"):
        windows, words = _windows(sae, model, recipe)
    beginning = checked_beginning(where, model, windows, bos)
    windows, said = _without_sinks(sae, model, windows, number, recipe.sinks)
    with progress.stage("measure quality"):
        residuals = full_residuals(model, windows, [number])[number]
        clean = clean_loss(model, windows)
        quality = measure_on_text(model, windows, residuals, number, sae, loss_clean=clean)
        agrees, notes = _recheck(sae, windows, residuals, recipe.text is None)
    notes += said
    if beginning is not None and beginning.is_wrong:
        notes.append(f"{beginning.words(where)}.")
    if other := _other_model(sae, where):
        notes.insert(0, f"Its file says that it is of {other}, and it was measured in {where}.")
    own = sae.metadata.get("text") or {}  # of any shape: only compared
    if recipe.text is not None and own.get("source") == recipe.text:
        notes.append(
            "It was trained on this text: without --text it is measured on what was held out."
        )
    return Evaluation(
        ref,
        where,
        other,
        number,
        sae.kind,
        sae.d_sae,
        words,
        quality,
        saved_quality(sae),
        agrees,
        tuple(notes),
    )


def _place(ref: str, sae: SparseAutoencoder, recipe: EvaluationRecipe) -> tuple[str, str, int]:
    """Model, kind of site and layer: as asked for, and as the file says, where it says them."""
    where = recipe.model or sae.metadata.get("ref") or sae.metadata.get("model")
    hook, said = sae.metadata.get("hook"), site_of(sae.metadata.get("hook"))
    kind, of = (said or f"{recipe.site or STREAM_AFTER}.").rsplit(".", 1)
    layer = int(of) if of else sae.metadata.get("layer")
    number = layer if recipe.layer is None else recipe.layer
    for option, found in (("--model", where), ("--layer", number)):
        if found is None:
            raise InputError(option, None, f"the file of {ref} does not say it", f"Give {option}.")
    if layer not in (None, number):
        raise InputError(
            "--layer",
            number,
            f"by its file, the dictionary {ref} is of layer {layer}",
            "Leave --layer out, or name the dictionary of that layer.",
        )
    assert where is not None and number is not None
    kind = recipe.site or kind
    if not is_of(sae, f"{kind}.{number}"):
        raise InputError(
            "place of the dictionary",
            hook or f"the residual stream after block {number}",
            f"it is measured at {kind}.{number}",
            "Leave --site out where its file says it; a place without a name here has none.",
        )
    return str(where), kind, int(number)


def _bos(sae: SparseAutoencoder, recipe: EvaluationRecipe) -> str:
    """As asked for, else as the dictionary was trained, where its file is one of ours."""
    if recipe.bos != AUTO or sae.metadata.get("text") is None:
        return recipe.bos
    return TRUE if sae.metadata.get("bos") else FALSE


def _without_sinks(
    sae: SparseAutoencoder, model: LanguageModel, windows: TokenWindows, layer: int, asked: str
) -> tuple[TokenWindows, list[str]]:
    """The text without sinks, as asked for or as the dictionary was trained, and what that took.

    What we trained on a text says in which layers they were masked; else its own layer's are.
    """
    layers = sae.metadata.get("sinks") if asked == AUTO else None
    if asked == "keep" or (asked == AUTO and layers is None and sae.metadata.get("text")):
        return windows, []
    there = range(model.n_layers)
    if layers is not None and not (isinstance(layers, list) and all(i in there for i in layers)):
        requirement = f"it lists layers of {model.name}, 0 to {there[-1]}"
        raise InputError("sinks in the dictionary's file", layers, requirement, "Give --sinks.")
    masked, sinks = masked_sinks(model, windows, layers or [layer])
    if not sinks.n_masked:
        return windows, []
    norm = f"norms over {SINK_NORM:g} times the median"
    return masked, [f"Left out are {sinks.n_masked} tokens with {norm} (sinks)."]


def _other_model(sae: SparseAutoencoder, where: str) -> str | None:
    """The name that the file has for its model, where it has one and it is not this."""
    names = [
        name for name in (sae.metadata.get("ref"), sae.metadata.get("model")) if name is not None
    ]
    return None if not names or where in names else str(names[0])


def _check_fits(ref: str, sae: SparseAutoencoder, model: LanguageModel, layer: int) -> None:
    if layer not in range(model.n_layers):
        raise InputError(
            "--layer",
            layer,
            f"{model.name} has layers 0 to {model.n_layers - 1}",
            "Choose of these.",
        )
    if sae.d_model != model.d_model:
        raise InputError(
            "--model",
            model.name,
            f"it is {model.d_model} wide, and the dictionary {ref} {sae.d_model}",
            "Name the model that it was trained on.",
        )
    tokenizer = fingerprint(model.require_tokenizer())
    if sae.metadata.get("tokenizer") not in (None, tokenizer):
        raise InputError(
            "--model",
            model.name,
            f"its tokenizer ({tokenizer}) must be that of the model of the dictionary "
            f"{ref} ({sae.metadata['tokenizer']})",
            "Name the model that it was trained on.",
        )


def _windows(
    sae: SparseAutoencoder, model: LanguageModel, recipe: EvaluationRecipe
) -> tuple[TokenWindows, str]:
    """What to measure on, and in words what that is."""
    own = sae.metadata.get("text")
    if recipe.text is None and own is not None:
        known = _text_of(own)
        return heldout_again(known, model.tokenizer), f"{known.source}, held out from its training"
    source = recipe.text or DEFAULT_TEXT
    text = Text(source, recipe.field, recipe.split, recipe.context, recipe.shuffle, recipe.seed)
    return read_text(text, model.tokenizer, recipe.tokens), source


def _text_of(facts: dict[str, Any]) -> Text:
    """The text of a dictionary from what its file says of it."""
    kinds = {
        field.name: str if field.default is MISSING else type(field.default)
        for field in fields(Text)
    }
    wrong = [
        name for name, value in facts.items() if name not in kinds or type(value) is not kinds[name]
    ]
    if wrong or "source" not in facts:
        raise InputError(
            "text in the dictionary's file",
            facts,
            f"{', '.join(wrong) or 'source'} is not as it is written here",
            "Give --text.",
        )
    return Text(**facts)


def _recheck(
    sae: SparseAutoencoder, windows: TokenWindows, residuals: torch.Tensor, own_text: bool
) -> tuple[bool | None, list[str]]:
    """Whether the numbers are those of the file, and what there is to say about it."""
    keep = torch.from_numpy(windows.mask).reshape(-1)
    if saved_quality(sae) is None:
        return None, ["Its file carries no quality to compare with."]
    if int(keep.sum()) < RECHECK_TOKENS:
        return None, [
            f"Fewer than {RECHECK_TOKENS} tokens say too little to compare with its file."
        ]
    try:
        recheck(sae, residuals.flatten(0, 1), keep=keep)
    except InputError as error:
        words = "" if own_text else "  The text is another one: that alone may be why."
        return False, [f"Not what its file says: {error}{words}"]
    return True, ["As its file says, within tolerance."]


def _plain(quality: Quality) -> dict[str, Any]:
    row = quality.as_row()
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in row.items()
    }


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
