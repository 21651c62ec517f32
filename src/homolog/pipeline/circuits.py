"""Circuits by themselves: how some models do a task or several, without dictionaries."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from homolog.analyses import ANALYSES
from homolog.analyses.material import Material
from homolog.circuits.released import compare, released_for
from homolog.corpus.tasks.asked import asked_pairs
from homolog.engine import open_engine
from homolog.errors import InputError
from homolog.models import (
    LanguageModel,
    load,
    load_tokenizer,
    require_inner_sites,
    require_positions,
)
from homolog.models.beginning import AUTO, FALSE
from homolog.pipeline.analyses import run_analyses
from homolog.pipeline.beginnings import DEMO, begins_with, note_beginnings, read_on_text
from homolog.pipeline.context import Context
from homolog.pipeline.finish import finish
from homolog.pipeline.inputs import require_different, task_inputs, tokenizer_input
from homolog.pipeline.models import weights_of
from homolog.progress import Progress
from homolog.record.process import memory_share
from homolog.record.recipe import CircuitRecipe, Circuits, RunSettings
from homolog.record.run_folder import RunFolder
from homolog.record.sides import Models, StudyModel
from homolog.record.tables import CIRCUITS, DISCOVERIES, TASK_CIRCUITS

MEASURED = {CIRCUITS, DISCOVERIES, TASK_CIRCUITS}
"""Tables of the analyses that measure circuits."""


def run_circuits(
    recipe: CircuitRecipe, out: Path, progress: Progress, *, threads: int | None = None
) -> Path:
    """Run the study into the folder `out`, or continue there; returns the report's index.html.

    Errors: InputError for models or a folder that cannot be used, and when no model can do the
    task.
    """
    models = named_once(recipe.models, recipe.revision, recipe.bos)
    require_circuits(models, recipe.circuits, "Name models of these architectures.")
    weights, begun = weights_of(models), begins_with(models)
    read = [*weights, *task_inputs(recipe.circuits)]
    if recipe.circuits.discovered:
        read += [tokenizer_input(model.ref, model.revision) for model in models]
    material = Material(out.absolute(), recipe, Models(tuple(models), {}, {}))
    beginnings: dict[str, Any] | None = None
    if not (out / "run.json").exists():
        RunFolder.require_place(out)
        require_different(weights)
        for model in models:
            _require_prompts(recipe, model)
        beginnings = _beginnings(material)
    run = RunFolder.open(out, recipe.values())
    try:
        run.check_inputs(read)
        names = [model.name for model in models]
        run.note(name=recipe.name, compared=names, device=recipe.run.device, begins_with=begun)
        if "beginnings" not in run.record:
            note_beginnings(run, beginnings or _beginnings(material), progress)
        with open_engine(threads=threads) as engine:
            memory, several = memory_share(), len(models) > 1
            context = Context(run, material, engine, progress, threads, memory, several)
            run_analyses(context, [a for a in ANALYSES if MEASURED & {*a.tables}])
        made = [material.table(table) for table in (CIRCUITS, TASK_CIRCUITS) if material.has(table)]
        if not made:
            reasons = [why["error"] for work, why in context.failed.items() if " " in work]
            raise RuntimeError(f"no circuit could be traced: {'; '.join(reasons)}")
        if not any(table["faithfulness"].is_not_null().any() for table in made):
            raise InputError(
                "models",
                [model.name for model in models],
                made[0]["reason"][0],
                "Repeat more tokens (--repeat 8), or take another model.",
            )
        return finish(run, progress)
    finally:
        run.close()


def _require_prompts(recipe: CircuitRecipe, model: StudyModel) -> None:
    """InputError where the tokenizer makes no prompts of a task, or they are too long."""
    try:
        tokenizer = load_tokenizer(model.ref, model.revision)
    except InputError:
        return  # the tasks may need none; the model, once loaded, says so
    for task in recipe.circuits.discovered:
        pairs = asked_pairs(task, tokenizer, recipe.circuits, recipe.run.seed)
        require_positions(model.ref, pairs.length, f"prompts of {task}", model.revision)


def _beginnings(material: Material) -> dict[str, Any]:
    """What windows' beginnings are worth; nothing of a rehearsal, where no model predicts."""
    if material.recipe.run.random_weights:
        return {}
    return read_on_text(material.model, material.compared, DEMO)


def named_once(
    refs: Sequence[str], revision: str | None = None, bos: str = AUTO
) -> list[StudyModel]:
    """The models of a study; InputError where two would share a name."""
    models = [StudyModel(ref, "model", revision, bos=bos) for ref in refs]
    if len({model.name for model in models}) < len(models):
        requirement = "each needs a name of its own"
        raise InputError("models", list(refs), requirement, "Name each model once.")
    return models


def require_circuits(
    models: Sequence[StudyModel], settings: Circuits, remedy: str, *, random: bool = False
) -> None:
    """InputError unless every model has an adapter and as many positions as prompts.

    The adapter has to know the sites inside its blocks.
    """
    for model in models:
        where = (model.revision,)
        require_positions(model.ref, settings.length, "circuits.length", *where, random=random)
        require_inner_sites(model.ref, "tracing circuits", remedy, *where, random=random)


def load_where(model: StudyModel, where: RunSettings) -> LanguageModel:
    """The model of a study on its device, in its precision."""
    loaded = load(
        model.ref,
        revision=model.revision,
        dtype=getattr(torch, where.dtype),
        device=where.device,
        random=where.random_weights,
    )
    return loaded.begun(model.bos)


def expected_lines(
    ref: str, n_prompts: int, batch: int, where: RunSettings, progress: Progress
) -> Iterator[str]:
    """The paper's experiments repeated on a model, beside the released numbers, as lines of text.

    Errors: InputError for a model of another shape than the two whose numbers were released.
    """
    model = load_where(StudyModel(ref, "model", bos=FALSE), where)  # as they were measured
    total = len(released_for(model)) * n_prompts
    with progress.stage(f"repeat released experiments on {ref}", total) as bar:
        compared = compare(model, n_prompts, where.seed, batch, bar.advance)
    columns = ("released", "ours", "deviation", "released_change", "our_change")
    for experiment, group in itertools.groupby(compared, lambda row: row["experiment"]):
        rows = list(group)
        yield f"{experiment}, {n_prompts} prompts. {rows[0]['note']}".rstrip()
        yield f"  {'place':<28}{'metric':<12}" + "".join(f"{name:>17}" for name in columns)
        for row in rows:
            shown = ("-" if math.isnan(row[name]) else f"{row[name]:.4f}" for name in columns)
            numbers = "".join(f"{text:>17}" for text in shown)
            yield f"  {row['place']:<28}{row['metric']:<12}{numbers}"
