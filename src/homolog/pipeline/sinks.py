"""The sinks of a study's models (`features.sinks`), masked in the text that all of them read.

    norms MODEL   norms of the residuals on the quality text: which layers have sinks?
    sinks MODEL   where some have, their places in the matched text

What is masked of a text is what any trained model that reads it has for a sink, so that all models
of a comparison, and all controls, have the same rows.  Untrained twins have no say: which rows the
result has must not depend on the controls that stand beside it, and what has not learned to put its
attention away has nothing of the kind.  Of the text to learn from, each trained model leaves out
its own sinks as its residuals are stored (`features.residuals`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from homolog.analyses.material import Material
from homolog.corpus import TokenWindows, save_windows
from homolog.dictionaries.variance import SINK_NORM, SINK_SHARE
from homolog.features import Shard, cut_shards
from homolog.features.sinks import (
    LayerNorms,
    Limits,
    Sinks,
    find_sinks,
    limits_of,
    measure_norms,
    without_places,
)
from homolog.pipeline.context import Context
from homolog.pipeline.text import MATCH, NEURONS, QUALITY, TRAIN
from homolog.record.parts import read_part, write_part
from homolog.record.run_folder import RunFolder
from homolog.record.sides import StudyModel

MASK = "mask"
UNMASKED = "unmasked"
"""The matched text as sinks are looked for in it."""
Row = dict[str, Any]


def store_windows(context: Context, texts: Mapping[str, Mapping[str, TokenWindows]]) -> None:
    """The windows of every text for every use, sinks masked where the recipe has them masked."""
    run = context.run
    masked = _masked(context, texts) if context.material.recipe.corpus.sinks == MASK else {}
    for name, text in texts.items():
        save_windows(text[TRAIN], run.windows_folder(TRAIN, name))
        for use in (MATCH, QUALITY, NEURONS):  # the last two are the first of the matched
            windows = without_places(text[use], masked[name]) if masked else text[use]
            save_windows(windows, run.windows_folder(use, name))


def limits_in(run: RunFolder, model: str) -> dict[int, float]:
    """The limits of a model's sink layers, as a run knows them; empty where nothing is masked."""
    return limits_of(_norms(run, model))


def sink_rows(norms: list[LayerNorms], limits: Limits, sinks: Sinks) -> list[Row]:
    """What a run says of each sink layer of a model."""
    known = {own.layer: own.facts() for own in norms}
    return [known[layer] | {"limit": limits[layer], "n": n} for layer, n in sinks.counts.items()]


def sinks_note(share: float, masked: Mapping[str, int], layers: list[Row]) -> dict[str, Any]:
    """What run.json says of sinks: the rule, how many are masked by text, and the sink layers."""
    return {"norm": SINK_NORM, "share": share, "masked": dict(masked), "layers": layers}


def _masked(
    context: Context, texts: Mapping[str, Mapping[str, TokenWindows]]
) -> dict[str, np.ndarray]:
    """By text the places of its matched windows that are masked; run.json says how they came."""
    run, models = context.run, context.material.models
    untrained = {model.name for model in models.untrained.values()}
    masked, rows = {name: np.zeros(0, np.int64) for name in texts}, []
    for model in models.all:
        if model.name not in untrained:
            text = run.text_of(model.name)
            sinks = _sinks(context, model, texts[text])
            masked[text] = np.union1d(masked[text], sinks.places)
            of_layers = sink_rows(_norms(run, model.name), limits_in(run, model.name), sinks)
            rows += [{"model": model.name} | row for row in of_layers]
    counts = {text: len(places) for text, places in masked.items()}
    run.note(sinks=sinks_note(SINK_SHARE, counts, rows))
    return masked


def _norms(run: RunFolder, model: str) -> list[LayerNorms]:
    return [LayerNorms.of(facts) for facts in run.facts(f"norms {model}").get("layers", [])]


def _sinks(context: Context, model: StudyModel, text: Mapping[str, TokenWindows]) -> Sinks:
    """The sinks of a model in the matched text; makes what is missing of its stages."""
    run, matched = context.run, text[MATCH]
    norms, sinks = f"norms {model.name}", f"sinks {model.name}"
    place = run.windows_folder(UNMASKED, run.text_of(model.name))
    if not run.is_done(norms):
        save_windows(matched, place)
        with run.stage(norms, []) as facts:
            call = {"model": model, "n_windows": len(text[QUALITY])}
            (own,) = context.tasks(f"norms of {model.name}", norms_on_sample, [call])
            facts["layers"] = [of_layer.facts() for of_layer in own]
    limits, file = limits_in(run, model.name), run.sinks_file(model.name)
    if not limits:
        return Sinks(np.zeros(0, np.int64), {})
    if not run.is_done(sinks):
        save_windows(matched, place)
        with run.stage(sinks, [file]):
            loaded = context.material.model(model)
            shards = cut_shards(matched, loaded, context.material.recipe.run.shard_mib << 20)
            calls = [{"model": model, "shard": shard} for shard in shards]
            found = Sinks.joined(context.tasks(f"sinks of {model.name}", sinks_in_shard, calls))
            counts = np.array(list(found.counts.items()), np.int64)
            write_part(file, {"places": found.places, "counts": counts}, matched.hash)
    part = read_part(file, matched.hash)
    assert part is not None, f"{file} is of another text"
    return Sinks(part["places"], {int(layer): int(n) for layer, n in part["counts"]})


def norms_on_sample(material: Material, model: StudyModel, n_windows: int) -> list[LayerNorms]:
    """Task: the norms of a model's residuals on the first of the matched text."""
    loaded, sample = material.model(model), material.windows(UNMASKED, model.name)[:n_windows]
    layers = model.blocks(loaded.n_layers)
    return measure_norms(loaded, sample, layers, material.recipe.run.shard_mib << 20)


def sinks_in_shard(material: Material, model: StudyModel, shard: Shard) -> Sinks:
    """Task: the sinks of a model in a shard of the matched text, by places in the whole of it."""
    text = material.windows(UNMASKED, model.name)
    found = find_sinks(material.model(model), shard.of(text), limits_in(material.run, model.name))
    return Sinks(found.places + shard.first * text.context, found.counts)
