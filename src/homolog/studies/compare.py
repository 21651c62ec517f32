"""The paper's first study: how much of what one model computes another computes too, from text to report.

    text -> for each model: dictionaries -> features -> for each comparison: matches with intervals -> tables -> report

Every arrow is a stage of the run folder: what is complete is kept, and a run that was stopped goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from homolog.corpus import TokenWindows, check_same_tokenizer, pack, read_documents
from homolog.features import Activations, load_features
from homolog.matching import match_models, summarise
from homolog.models import load_tokenizer
from homolog.progress import Progress
from homolog.storage.run_folder import RunFolder
from homolog.studies import subject as work
from homolog.studies.circuits import trace_models
from homolog.studies.finish import finish, write_table
from homolog.studies.plan import CURRENT_TOKEN, Comparison, Plan, Subject, finished_report, make_plan
from homolog.studies.recipe import Recipe

TABLES = ("matches", "layers", "summary")


def run_comparison(recipe: Recipe, out: Path, progress: Progress) -> Path:
    """Run the recipe into the folder `out`, or continue there; returns the report's index.html.

    Errors: InputError for models, text or folder that cannot be used, before any work is done where possible.
    """
    if (finished := finished_report(recipe, out)) is not None:
        return finished
    plan = make_plan(recipe)
    tokenizers = [load_tokenizer(s.ref, s.revision) for s in plan.subjects]
    first = plan.subjects[0]
    for subject, tokenizer in zip(plan.subjects[1:], tokenizers[1:], strict=True):
        check_same_tokenizer(first.ref, tokenizers[0], subject.ref, tokenizer)
    fresh = not (out / "run.json").exists()  # what is wrong with the text is then said before a folder is made
    text = _read_text(recipe, tokenizers[0], progress) if fresh else None
    run = RunFolder.open(out, recipe.values())
    try:
        text = text or _read_text(recipe, tokenizers[0], progress)
        _note_facts(run, recipe, plan, text)
        progress.plan(_expected_seconds(plan, recipe.circuits is not None))
        for subject in plan.subjects:
            _work_on(run, recipe, subject, text, progress)
        if not run.is_done("tables"):
            _compare_all(run, recipe, plan, text, progress)
        if recipe.circuits is not None:
            where = (recipe.run.seed, recipe.pair.dtype, recipe.run.device)
            trace_models(run, plan.subjects[:2], recipe.circuits, *where, progress)
        return finish(run, progress)
    finally:
        run.close()


def _read_text(recipe: Recipe, tokenizer: Any, progress: Progress) -> dict[str, TokenWindows]:
    """Windows by use: "train" and "match" share no window; "quality" and "neurons" are the first of "match"."""
    corpus = recipe.corpus
    documents = read_documents(
        corpus.source, field=corpus.field, split=corpus.split, shuffle=corpus.shuffle, seed=corpus.seed
    )
    with progress.stage("read the text"):
        match_windows = -(-corpus.match_tokens // corpus.context)
        train_windows = -(-corpus.train_tokens // corpus.context)
        whole = pack(documents, tokenizer, corpus.context, n_tokens=(match_windows + train_windows) * corpus.context)
    # Windows in random order: a part then holds some of every document, not all of a few long ones.
    match, train = whole.shuffled(corpus.seed).split(match_windows)
    first = {"quality": corpus.quality_tokens, "neurons": corpus.neuron_tokens or corpus.match_tokens}
    parts = {use: match[: -(-tokens // corpus.context)] for use, tokens in first.items()}
    return {"whole": whole, "train": train, "match": match, **parts}


def _note_facts(run: RunFolder, recipe: Recipe, plan: Plan, text: dict[str, TokenWindows]) -> None:
    whole = text["whole"]
    run.note(
        name=recipe.name,
        pair=[s.name for s in plan.subjects[:2]],
        device=recipe.run.device,
        corpus={
            "hash": whole.hash,
            "tokenizer": whole.tokenizer_fingerprint,
            "n_documents": whole.n_documents,
            "n_windows": len(whole),
            "context": whole.context,
            "n_tokens": whole.n_tokens,
            "train_tokens": text["train"].n_tokens,
            "match_tokens": int(text["match"].mask.sum()),
            "match_documents": text["match"].n_documents,
            "neuron_tokens": int(text["neurons"].mask.sum()),
            "sources": [recipe.corpus.source],
        },
    )


def _work_on(
    run: RunFolder, recipe: Recipe, subject: Subject, text: dict[str, TokenWindows], progress: Progress
) -> None:
    stage = f"dictionaries {subject.name}"
    if not run.is_done(stage):
        model = work.load_subject(subject, recipe)
        facts_of_model = {
            "name": subject.name, "ref": subject.ref, "role": subject.role, "architecture": model.architecture,
            "n_layers": model.n_layers, "d_model": model.d_model, "n_parameters": model.n_parameters,
        }  # fmt: skip
        outputs = [
            run.sae_folder(subject.name, layer, label) for layer in range(model.n_layers) for label in subject.labels
        ]
        with run.stage(stage, outputs) as facts:
            rows = work.train_dictionaries(run, recipe, subject, model, text["train"], text["quality"], progress)
            facts |= {"saes": rows, "model": facts_of_model | {"heldout_loss": rows[0]["loss_clean"]}}
    stage = f"features {subject.name}"
    if not run.is_done(stage):
        n_layers = run.facts(f"dictionaries {subject.name}")["model"]["n_layers"]
        outputs = [
            run.feature_folder(subject.name, i, label) for i in range(n_layers) for label in subject.encoded_labels
        ]
        with run.stage(stage, outputs):
            work.encode_features(run, recipe, subject, text["match"], progress)


def _compare_all(run: RunFolder, recipe: Recipe, plan: Plan, text: dict[str, TokenWindows], progress: Progress) -> None:
    """Every comparison as a stage of its own, then the tables of the run from their parts."""
    parts: dict[str, list[Path]] = {table: [] for table in TABLES}
    for comparison in plan.comparisons:
        paths = {table: run.cache_folder / "tables" / f"{comparison.key}.{table}.parquet" for table in TABLES}
        stage = f"match {comparison.key}"
        if not run.is_done(stage):
            with run.stage(stage, list(paths.values())):
                _compare(run, recipe, comparison, text, paths, progress)
        for table, path in paths.items():
            parts[table].append(path)
    outputs = {"matches": run.matches, "layers": run.layers, "summary": run.summary, "saes": run.saes_table}
    with run.stage("tables", list(outputs.values())):
        for table, paths_of_table in parts.items():
            write_table(pl.concat([pl.read_parquet(path) for path in paths_of_table]), outputs[table])
        facts = [run.facts(f"dictionaries {s.name}") for s in plan.subjects]
        rows = [row for fact in facts for row in fact["saes"]]
        write_table(pl.DataFrame(rows, infer_schema_length=None), outputs["saes"])
        run.note(models=[fact["model"] for fact in facts], warnings=_warnings(rows))


def _compare(run: RunFolder, recipe: Recipe, comparison: Comparison, text: dict[str, TokenWindows],
             paths: dict[str, Path], progress: Progress) -> None:  # fmt: skip
    sides: list[Sequence[Activations]] = []
    for subject, label in ((comparison.a, comparison.label_a), (comparison.b, comparison.label_b)):
        if subject == CURRENT_TOKEN:
            sides.append([work.current_token(text["match"])])
        elif comparison.kind == "neuron":
            sides.append(work.neurons(recipe, subject, text["neurons"], progress))
        else:
            n_layers = run.facts(f"dictionaries {subject.name}")["model"]["n_layers"]
            sides.append([load_features(run.feature_folder(subject.name, i, label)) for i in range(n_layers)])
    a, b = sides
    if comparison.name == "neurons":
        run.note(neurons_by_token={s[0].name: work.share_by_token(s, text["neurons"]) for s in sides})  # type: ignore[arg-type]
    title = f"match {a[0].name} and {b[0].name}" + (" (neurons)" if comparison.kind == "neuron" else "")
    with progress.stage(title, len(a) * len(b)) as bar:
        found = match_models(a, b, comparison=comparison.name, progress=lambda _done, _all: bar.advance(1))
        floor = max(1, round(recipe.matching.frequency_floor * a[0].n_tokens))
        summary = summarise(
            found.matches, a, b, seed=recipe.run.seed, n_replicates=recipe.matching.resamples, frequent=floor
        )
    for table, frame in (("matches", found.matches), ("layers", found.layers), ("summary", summary)):
        write_table(frame, paths[table])


def _warnings(saes: list[dict[str, Any]]) -> list[str]:
    return [f"{r['model']}, layer {r['layer']} ({r['label']}): {r['reason']}" for r in saes if not r["passed"]]


def _expected_seconds(plan: Plan, with_circuits: bool) -> dict[str, float]:
    """Shares of the work, for the estimate of the time left; they only need to be in proportion."""
    expected: dict[str, float] = {}
    for s in plan.subjects:
        n = len(s.labels)
        steps = {"read {}": 6, "train dictionaries of {}": 25 * n, "judge dictionaries of {}": 4 * n,
                 "read {} for matching": 3, "encode {}": 3 * len(s.encoded_labels)}  # fmt: skip
        expected |= {step.format(s.name): float(seconds) for step, seconds in steps.items()}
    if with_circuits:
        steps = {"patch paths in {}": 6.0, "off by one in {}": 5.0, "discover edges of {}": 5.0}
        expected |= {step.format(s.name): seconds for s in plan.subjects[:2] for step, seconds in steps.items()}
    return expected | {"write the report": 10.0}
