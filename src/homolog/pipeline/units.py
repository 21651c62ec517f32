"""Models with different tokenizers: their features by the units of both (`corpus.units`).

Each tokenizer has its own windows over the same text.  Features are encoded on the windows of their
model's own; where a comparison is between two tokenizers, both sides are pooled to the units
between them (`features.pooled`), by `matching.align`, and rows of everything after are units.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from homolog.analyses.material import Material
from homolog.analyses.units import Texts, alignment, rows_of
from homolog.errors import InputError
from homolog.features.pooled import store_pooled
from homolog.pipeline.context import Context
from homolog.pipeline.features import feature_folders
from homolog.pipeline.text import MATCH, NEURONS
from homolog.record.atomic import sha256_bytes
from homolog.record.comparisons import MAIN
from homolog.record.sides import NEURON, Side


def folders_of_pair(context: Context, a: Side, b: Side) -> tuple[list[Path], list[Path]]:
    """The folders of two sides' features, one per layer, on the same rows."""
    texts = context.material.texts_of(a.model.name, b.model.name)
    if b.model.name not in {model.name for model in context.material.models.all}:
        return feature_folders(context, a), feature_folders(context, b, a.model)
    return folders_on(context, a, texts), folders_on(context, b, texts)


def folders_on(context: Context, side: Side, texts: Texts | None) -> list[Path]:
    """The folders of a side's features by the units of two texts; None: by tokens."""
    sources = feature_folders(context, side)
    if texts is None:
        return sources
    run, model = context.run, side.model.name
    layers = context.material.layers(model)
    folders = [run.units_folder(texts, model, layer, side.label) for layer in layers]
    stage = f"units {'-'.join(text or 'first' for text in texts)} {side.words} {side.label}"
    if context.is_missing(stage):
        with run.stage(stage, folders):
            calls = [
                {"side": side, "texts": texts, "source": source, "out": out}
                for source, out in zip(sources, folders, strict=True)
            ]
            context.tasks(f"units of {side.words}", store_units, calls)
    return folders


def store_units(material: Material, side: Side, texts: Texts, source: Path, out: Path) -> None:
    """Task: the features of a layer, by the units of two texts."""
    use, align = NEURONS if side.label == NEURON else MATCH, material.recipe.matching.align
    aligned = alignment(material, texts, use)
    hashes = (material.windows_of(use, text).hash for text in texts)
    key = sha256_bytes(f"units {align}", *hashes)
    rows = rows_of(aligned, texts, material.run.text_of(side.model.name))
    store_pooled(source, out, rows, aligned.document, align, key)


def store_main_units(context: Context) -> None:
    """The features of the result by units, which analyses read."""
    for a, b in MAIN.pairs(context.material.models):
        folders_of_pair(context, a, b)


def units_facts(material: Material) -> list[dict[str, Any]]:
    """What run.json says of the units of every pair of models whose tokenizers differ."""
    facts = []
    for a, b in material.models.pairs:
        texts = material.texts_of(a.name, b.name)
        if texts is not None:
            own = alignment(material, texts).facts()
            if not own["units"]:
                names = f"{a.name} and {b.name}"
                requirement = "somewhere in the matched text their tokens must end together"
                remedy = "Match more text (corpus.match_tokens), or models with other tokenizers."
                raise InputError("tokenizers", names, requirement, remedy)
            turned = material.run.text_of(a.name) != texts[0]
            own["tokens_per_unit"] = own["tokens_per_unit"][:: -1 if turned else 1]
            align = {"align": material.recipe.matching.align}
            facts.append({"model": a.name, "best_model": b.name} | align | own)
    return facts
