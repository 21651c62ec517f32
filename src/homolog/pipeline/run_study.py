"""The paper's first study, and all that is asked beside it, from text to report.

    text -> for each model: residuals -> dictionaries -> features
         -> for each comparison: matches with intervals -> tables with verdicts
         -> for each analysis: its tables -> report

Every arrow is a stage of the run folder, and a stage consists of tasks that an engine runs here or
on a cluster: what is complete is kept, and a run that was stopped goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homolog.analyses import ANALYSES
from homolog.analyses.material import Material
from homolog.corpus import (
    TokenWindows,
    check_same_tokenizer,
    fingerprint,
    require_tokenizer,
    token_texts,
)
from homolog.engine import open_engine
from homolog.errors import InputError
from homolog.models import load_tokenizer, require_inner_sites, require_positions
from homolog.models.beginning import chosen_beginning
from homolog.models.load import n_blocks
from homolog.pipeline.analyses import (
    is_due,
    is_made,
    is_told,
    run_analyses,
    words_left_out,
)
from homolog.pipeline.beginnings import read_beginnings
from homolog.pipeline.brought import check_brought
from homolog.pipeline.circuits import require_circuits
from homolog.pipeline.comparing import compare
from homolog.pipeline.context import Context
from homolog.pipeline.costs import expected_seconds
from homolog.pipeline.dictionaries import make_dictionaries
from homolog.pipeline.features import encode_features
from homolog.pipeline.finish import finish, is_reported
from homolog.pipeline.inputs import require_different
from homolog.pipeline.judging import KeptNull, in_words, is_judged
from homolog.pipeline.models import inputs_of, left_out, models_of, revisions_of, weights_of
from homolog.pipeline.pace import Pace
from homolog.pipeline.plan import pace_heard, say_plan
from homolog.pipeline.sinks import store_windows
from homolog.pipeline.text import MATCH, QUALITY, read_texts, text_facts, warnings_of
from homolog.pipeline.units import store_main_units, units_facts
from homolog.progress import Progress
from homolog.record.atomic import write_json
from homolog.record.comparisons import planned
from homolog.record.layers import STREAM_AFTER
from homolog.record.process import machine, memory_share
from homolog.record.recipe import Recipe
from homolog.record.run_folder import RunFolder
from homolog.record.sides import NEURON, Models


def run_study(
    recipe: Recipe,
    out: Path,
    progress: Progress,
    *,
    ray: str | None = None,
    threads: int | None = None,
    told: bool = False,
) -> Path:
    """Run the recipe into the folder `out`, or continue there; returns the report's index.html.

    ray, threads: see `engine.open_engine`; they change no byte of the tables.  told: it has been
    said what the run will cost.
    Errors: InputError for models, text or folder that cannot be used, before any work is done where
    possible.
    """
    if recipe.grid is not None:
        requirement = "a study is one cell of a grid"
        raise InputError("grid", recipe.name, requirement, "Use run_grid, or leave [grid] out.")
    if (page := finished_report(recipe, out)) is not None:
        return page
    models = models_of(recipe)
    tokenizers, text_of = _check_models(models, recipe)
    material = Material(out.absolute(), recipe, models)
    weights = weights_of(models.all, random=recipe.run.random_weights)
    texts: dict[str, dict[str, TokenWindows]] = {}
    beginnings: dict[str, Any] | None = None
    pace: Pace | None = None
    if not (out / "run.json").exists():  # what is wrong is then said before a folder is made
        RunFolder.require_place(out)
        for model in models.all:
            if model.saes or model.site != STREAM_AFTER:  # a place that it may not have
                check_brought(model, material.model(model))
        texts = read_texts(recipe, tokenizers, progress)
        require_different(weights)
        beginnings = _beginnings(material, texts, text_of)
        pace = pace_heard(recipe, progress, threads)
        if not told:
            say_plan(recipe, out, progress, pace)
    run = RunFolder.open(out, recipe.values())
    try:
        texts = texts or read_texts(recipe, tokenizers, progress)
        text = texts[""]
        run.check_inputs(inputs_of(recipe, models, weights, lambda: text["whole"].hash))
        corpus = text_facts(recipe, text, tokenizers[""]) | _other_texts(tokenizers, text_of)
        _note_study(run, recipe, models, corpus)
        if "beginnings" not in run.record:
            run.note(beginnings=beginnings or _beginnings(material, texts, text_of))
        with open_engine(ray, threads) as engine:
            engine.check_folder(material.path)
            share = 1.0 if ray is None else (threads or 1) / int(machine()["n_cpus"])
            of_task = threads if ray is None else threads or 1
            context = Context(run, material, engine, progress, of_task, memory_share(share))
            _say_at_start(context, text[MATCH], pace or pace_heard(recipe, progress, threads))
            _work_through(context, texts)
        return finish(run, progress)
    finally:
        run.close()


def _note_study(run: RunFolder, recipe: Recipe, models: Models, corpus: dict[str, Any]) -> None:
    """What run.json says of the study besides its recipe."""
    run.note(
        name=recipe.name,
        compared=[model.name for model in models.compared],
        pairs=[[model.name for model in pair] for pair in models.pairs],
        controls=models.controls,
        revisions=revisions_of(recipe),
        device=recipe.run.device,
        corpus=corpus,
    )


def _say_at_start(context: Context, matched: TokenWindows, pace: Pace) -> None:
    """How long stages will take, what is judged anew, and what is left out."""
    material, progress = context.material, context.progress
    progress.plan(expected_seconds(material.recipe, pace))
    if words := in_words(context.run):
        progress.note(words)
    for words in (*warnings_of(material.recipe, matched), *words_left_out(material, ANALYSES)):
        progress.note(f"Left out: {words}.")


def _work_through(context: Context, texts: Mapping[str, Mapping[str, TokenWindows]]) -> None:
    """Every stage of a study, in order."""
    store_windows(context, texts)
    if len(texts) > 1:
        context.run.note(units=units_facts(context.material))
    for model in context.material.models.all:
        make_dictionaries(context, model)
        encode_features(context, model)
    store_main_units(context)
    compare(context)
    if context.material.recipe.interpretation is not None:
        _store_vocabulary(context)
    run_analyses(context, ANALYSES)


def check_study(recipe: Recipe, progress: Progress) -> None:
    """InputError for models or text that cannot be used, as `run_study` raises it; nothing made."""
    models = models_of(recipe)
    tokenizers, _ = _check_models(models, recipe)
    read_texts(recipe, tokenizers, progress)
    require_different(weights_of(models.all, random=recipe.run.random_weights))


def finished_report(recipe: Recipe, out: Path) -> Path | None:
    """The report of this recipe's run in `out`, if it is complete and all of it is as it was.

    Loads no models, so that a run that is complete is answered at once.
    """
    try:
        run = RunFolder(out)
    except InputError:
        return None  # no run, or an unreadable one, which `RunFolder.open` rebuilds
    models = models_of(recipe)
    material = Material(out.absolute(), recipe, models)
    weights = weights_of(models.all, random=recipe.run.random_weights)
    stages = [f"{kind} {m.name}" for kind in ("dictionaries", "features") for m in models.all]
    complete = (
        run.recipe == recipe.values()
        and not run.record.get("failed")
        and all(run.is_done(stage) for stage in (*stages, "tables"))
        and is_judged(run, "tables", recipe)
        and all(KeptNull.of(run, plan) for plan in planned(models, left_out(recipe)))
        and is_reported(run)
        and run.reads_the_same(inputs_of(recipe, models, weights, str))
        and all(is_made(run, analysis) for analysis in ANALYSES if is_due(material, analysis))
        and all(is_told(run, analysis) for analysis in ANALYSES)
    )
    return run.report_folder / "index.html" if complete else None


def words_of(record: Mapping[str, Any]) -> list[str]:
    """What a run says in words, by its run.json: the verdicts, then what analyses found."""
    names = ["verdicts", *(analysis.name for analysis in ANALYSES if analysis.says is not None)]
    return [entry["words"] for name in names for entry in record.get(name, [])]


def _check_models(models: Models, recipe: Recipe) -> tuple[dict[str, Any], dict[str, str]]:
    """The tokenizers by text, and the text of each model (`RunFolder.text_of`).

    InputError when a model is asked for what it cannot do.  That is windows longer than its
    positions, and neurons or circuits where only the residual stream can be read, as far as its
    configuration tells.
    """
    random = recipe.run.random_weights
    own = {m.name: load_tokenizer(m.ref, m.revision, random=random) for m in models.all}
    for of in (models.untrained, models.other_seed):
        for model in models.compared:
            if model.name in of:  # a control that reads other tokens would be none
                control = of[model.name]
                check_same_tokenizer(model.ref, own[model.name], control.ref, own[control.name])
    for model in models.all:
        chosen_beginning(model.ref, own[model.name], model.bos)
    tokenizers, text_of = _by_text(models, own)
    for model in models.all:
        if (n_layers := n_blocks(model.ref, model.revision, random=random)) is not None:
            model.blocks(n_layers)
        context = recipe.corpus.context
        require_positions(model.ref, context, "corpus.context", model.revision, random=random)
    plans = planned(models, left_out(recipe))
    sides = [side for plan in plans for side in (plan.a, plan.b) if side.label == NEURON]
    for model in dict.fromkeys(side.model for side in sides):
        remedy = "Set controls.neurons = false."
        require_inner_sites(model.ref, "reading neurons", remedy, model.revision, random=random)
    if recipe.circuits is not None:
        remedy = "Leave [circuits] out of the recipe."
        require_circuits(models.compared, recipe.circuits, remedy, random=random)
    return tokenizers, text_of


def _by_text(
    models: Models, tokenizers: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The different ones of the models' tokenizers, by text, and the text of each model."""
    by_text: dict[str, Any] = {}
    text_of: dict[str, str] = {}
    names: dict[str, str] = {}
    for model in models.all:
        tokenizer = require_tokenizer(model.ref, tokenizers[model.name])
        made = fingerprint(tokenizer)
        text_of[model.name] = names.setdefault(made, made[:8] if names else "")
        by_text.setdefault(text_of[model.name], tokenizer)
    return by_text, text_of


def _other_texts(tokenizers: Mapping[str, Any], text_of: Mapping[str, str]) -> dict[str, Any]:
    """What run.json says besides where there are several tokenizers."""
    return {} if len(tokenizers) == 1 else {"texts": dict(text_of)}


def _beginnings(
    material: Material, texts: Mapping[str, Mapping[str, TokenWindows]], text_of: Mapping[str, str]
) -> dict[str, Any]:
    """`read_beginnings`; nothing of a rehearsal, where no model predicts anything."""
    if material.recipe.run.random_weights:
        return {}
    return read_beginnings(
        material, {model: texts[text][QUALITY] for model, text in text_of.items()}
    )


def _store_vocabulary(context: Context) -> None:
    """The text of every token id, which the explorer and the rating read."""
    run = context.run
    models = {run.text_of(model.name): model for model in reversed(context.material.compared)}
    files = {text: run.vocabulary_of(text) for text in models}
    if not run.is_done("vocabulary"):
        with run.stage("vocabulary", list(files.values())):
            for text, model in models.items():
                tokenizer = context.material.model(model).require_tokenizer()
                write_json(files[text], token_texts(tokenizer))
