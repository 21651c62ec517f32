"""The paper's first study: how much of what one model computes others compute too, from text to
report.

    text -> for each model: residuals -> dictionaries -> features -> for each comparison: matches
    with intervals
         -> tables -> verdict -> report

Every arrow is a stage of the run folder, and a stage consists of tasks that an engine runs here or
on a cluster: what is complete is kept, and a run that was stopped goes on from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from homolog.corpus import TokenWindows, check_same_tokenizer, pack, read_documents, save_windows
from homolog.engine import Engine, Task, open_engine
from homolog.features import write_residuals
from homolog.matching import summarise, tables_of
from homolog.matching.variance import variance_table
from homolog.models import LanguageModel, load_tokenizer, require_inner_sites, require_positions
from homolog.pipeline import subject as work
from homolog.pipeline.brought import check_brought, without_seed
from homolog.pipeline.circuits import require_circuits, trace_models
from homolog.pipeline.finish import beginning_missed, by_itself, finish, write_table
from homolog.pipeline.inputs import read_facts, require_different
from homolog.pipeline.interpret import MEANING, interpret, left_out
from homolog.pipeline.judge import judged
from homolog.pipeline.matches import Comparer, Matched
from homolog.pipeline.meaning import parts_folder
from homolog.pipeline.plan import (
    CURRENT_TOKEN,
    INTERPRETED,
    Comparison,
    Plan,
    Subject,
    finished_report,
    inputs_of,
    make_plan,
    weights_of,
)
from homolog.pipeline.recipe import Recipe
from homolog.pipeline.spaces import compare_decoders, compare_residuals
from homolog.progress import Progress
from homolog.record.process import machine
from homolog.record.run_folder import RunFolder

TABLES = ("matches", "layers", "summary")
LAYER_PAIR = ("model", "layer", "best_model", "best_layer")
SPACES_SCHEMA = {
    "model": pl.String,
    "layer": pl.Int32,
    "best_model": pl.String,
    "best_layer": pl.Int32,
    **dict.fromkeys(("cka", "svcca", "decoder_rsa", "decoder_svcca"), pl.Float64),
    "n_pairs": pl.Int64,
}
MAY_BE_NULL = {"sparsity": pl.Float64, "tokens_trained": pl.Int64, "origin": pl.String}
MEMORY_SHARE = 0.4  # of the machine's memory that tasks may plan with


@dataclass(frozen=True)
class Here:
    """What every stage of a run works with."""

    run: RunFolder
    recipe: Recipe
    plan: Plan
    text: dict[str, TokenWindows]
    engine: Engine
    threads: int | None
    room: int
    """Bytes that one task may hold."""
    progress: Progress
    asked: set[str] = field(default_factory=set)
    """Stages that `lacks` was asked about."""

    @property
    def path(self) -> Path:
        """The run folder, absolute, for tasks."""
        return self.run.path.absolute()

    @property
    def most_exchanges(self) -> int:
        """A document meets a different one in each exchange of the null."""
        return max(0, len(np.unique(self.text["match"].token_document)) - 1)

    @property
    def comparer(self) -> Comparer:
        """Matches sides of this run."""
        cache = self.run.cache_folder
        return Comparer(self.engine, cache, self.room, self.threads, self.recipe.run.device)

    def lacks(self, stage: str) -> bool:
        """Whether a stage that several comparisons need has to run; its files are checked the first
        time only.
        """
        new = stage not in self.asked
        self.asked.add(stage)
        return new and not self.run.is_done(stage)

    def tasks(
        self, title: str, function: Callable[..., Any], calls: Sequence[dict[str, Any]]
    ) -> list[Any]:
        """Run `function` once for each of the calls, as tasks, with a bar."""
        tasks = [
            Task(function, call, f"{title} ({number + 1} of {len(calls)})")
            for number, call in enumerate(calls)
        ]
        with self.bar(title, len(tasks)) as report:
            return self.engine.map(tasks, report)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Callable[[int, int], None]]:
        """A stage of the progress display that is told (done, all)."""
        done = 0
        with self.progress.stage(title, total) as bar:

            def report(now: int, _all: int) -> None:
                nonlocal done
                bar.advance(now - done)
                done = now

            yield report


def run_comparison(
    recipe: Recipe,
    out: Path,
    progress: Progress,
    *,
    ray: str | None = None,
    threads: int | None = None,
) -> Path:
    """Run the recipe into the folder `out`, or continue there; returns the report's index.html.

    ray, threads: see `engine.open_engine`; they change no byte of the tables.
    Errors: InputError for models, text or folder that cannot be used, before any work is done where
    possible.
    """
    if (finished := finished_report(recipe, out)) is not None:
        return finished
    plan = make_plan(recipe)
    _check_models(plan, recipe)
    tokenizers = [
        load_tokenizer(s.ref, s.revision, random=recipe.run.random_weights) for s in plan.subjects
    ]
    first = plan.subjects[0]
    for subject, tokenizer in zip(plan.subjects[1:], tokenizers[1:], strict=True):
        check_same_tokenizer(first.ref, tokenizers[0], subject.ref, tokenizer)
    fresh = not (
        out / "run.json"
    ).exists()  # what is wrong with the text is then said before a folder is made
    for subject in (s for s in plan.subjects if s.saes and fresh):
        check_brought(subject, work.load_subject(subject, recipe))
    text = _read_text(recipe, tokenizers[0], progress) if fresh else None
    if fresh:
        require_different(weights_of(plan.subjects, random=recipe.run.random_weights))
    run = RunFolder.open(out, recipe.values())
    try:
        text = text or _read_text(recipe, tokenizers[0], progress)
        for words in left_out(text, recipe.interpretation):
            progress.note(f"Left out: {words}.")
        run.check_inputs(inputs_of(recipe, plan, partial(getattr, text["whole"], "hash")))
        _note_facts(run, recipe, plan, text, tokenizers[0])
        progress.plan(_expected_seconds(plan, recipe.circuits is not None))
        with open_engine(ray, threads) as engine:
            engine.check_folder(run.path.absolute())
            share = 1.0 if ray is None else (threads or 1) / int(machine()["n_cpus"])
            room = int(MEMORY_SHARE * share * int(machine()["memory_bytes"]))
            _work_through(
                Here(
                    run,
                    recipe,
                    plan,
                    text,
                    engine,
                    threads if ray is None else threads or 1,
                    room,
                    progress,
                )
            )
        if recipe.circuits is not None:
            trace_models(run, plan.compared, recipe.circuits, recipe.run, progress, threads=threads)
        return finish(run, progress)
    finally:
        run.close()


def _check_models(plan: Plan, recipe: Recipe) -> None:
    """InputError when a model is asked for what it cannot do, as far as its configuration tells.

    That is windows longer than its positions, and neurons or circuits where only the residual
    stream can be read.
    """
    random = recipe.run.random_weights
    for s in plan.subjects:
        require_positions(s.ref, recipe.corpus.context, "corpus.context", s.revision, random=random)
    neurons = [subject for c in plan.comparisons if c.kind == "neuron" for subject in (c.a, c.b)]
    for subject in dict.fromkeys(neurons):
        require_inner_sites(
            subject.ref,
            "reading neurons",
            "Set controls.neurons = false.",
            subject.revision,
            random=random,
        )
    if recipe.circuits is not None:
        require_circuits(
            plan.compared, recipe.circuits, "Leave [circuits] out of the recipe.", random=random
        )


def _work_through(here: Here) -> None:
    for use in ("train", "match", "quality", "neurons"):
        save_windows(here.text[use], here.run.cache_folder / "windows" / use)
    for subject in here.plan.subjects:
        _work_on(here, subject)
    failed = here.run.record.get("failed", {})
    incomplete = any(work.startswith(("match ", "spaces ")) for work in failed)
    if incomplete or not here.run.is_done("tables"):
        _compare_all(here)
    if incomplete:  # what was made of tables without those matches is made again
        shutil.rmtree(parts_folder(here.run.path), ignore_errors=True)
    if here.recipe.interpretation is not None:
        done = [here.run.is_done(stage) for stage in INTERPRETED]
        if incomplete or any(work.startswith(MEANING) for work in failed) or not all(done):
            with by_itself(here.run, "interpretation", here.progress):
                interpret(here)


def _read_text(recipe: Recipe, tokenizer: Any, progress: Progress) -> dict[str, TokenWindows]:
    """Windows by use: "train" and "match" share no window; "quality" and "neurons" are the first of
    "match".
    """
    corpus = recipe.corpus
    documents = read_documents(
        corpus.source,
        field=corpus.field,
        split=corpus.split,
        shuffle=corpus.shuffle,
        seed=corpus.seed,
    )
    with progress.stage("read the text"):
        match_windows = -(-corpus.match_tokens // corpus.context)
        train_windows = -(-corpus.train_tokens // corpus.context)
        whole = pack(
            documents,
            tokenizer,
            corpus.context,
            n_tokens=(match_windows + train_windows) * corpus.context,
        )
    # Windows in random order: a part then holds some of every document, not all of a few long ones.
    match, train = whole.shuffled(corpus.seed).split(match_windows)
    first = {
        "quality": corpus.quality_tokens,
        "neurons": corpus.neuron_tokens or corpus.match_tokens,
    }
    parts = {use: match[: -(-tokens // corpus.context)] for use, tokens in first.items()}
    found = {"whole": whole, "train": train, "match": match, **parts}
    for use, windows in found.items():
        windows.require_unmasked(f"{use} windows of {corpus.source}")
    return found


def _note_facts(
    run: RunFolder, recipe: Recipe, plan: Plan, text: dict[str, TokenWindows], tokenizer: Any
) -> None:
    whole = text["whole"]
    run.note(
        name=recipe.name,
        compared=[s.name for s in plan.compared],
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
            **read_facts(whole, tokenizer),
        },
    )


def _work_on(here: Here, subject: Subject) -> None:
    run, recipe = here.run, here.recipe
    base = {"run": here.path, "recipe": recipe, "subject": subject}
    stage = f"dictionaries {subject.name}"
    if not run.is_done(stage):
        model = work.load_subject(subject, recipe)
        facts_of_model = {
            "name": subject.name,
            "ref": subject.ref,
            "role": subject.role,
            "architecture": model.architecture,
            "n_layers": model.n_layers,
            "d_model": model.d_model,
            "n_parameters": model.n_parameters,
        }
        layers = range(model.n_layers)
        outputs = [
            run.sae_folder(subject.name, layer, label)
            for layer in layers
            for label in subject.encoded_labels
        ]
        with run.stage(stage, outputs) as facts:
            if not subject.saes:
                _store_residuals(here, subject, model)
            groups = _groups(here, subject, model.n_layers, model.d_model)
            calls = [base | {"layers": group, "threads": here.threads} for group in groups]
            title = f"{'load' if subject.saes else 'train'} dictionaries of {subject.name}"
            rows = [row for part in here.tasks(title, work.train_layers, calls) for row in part]
            rows.sort(key=lambda row: (subject.labels.index(row["label"]), row["layer"]))
            notes = [note for row in rows if (note := row.pop("note")) is not None]
            notes += beginning_missed(model, subject.name, here.text["quality"], here.progress)
            facts |= {
                "saes": rows,
                "model": facts_of_model | {"heldout_loss": rows[0]["loss_clean"]},
                "notes": notes,
            }
        run.drop_residuals(subject.name)
    stage = f"features {subject.name}"
    if not run.is_done(stage):
        model = work.load_subject(subject, recipe)
        layers = range(model.n_layers)
        outputs = [
            run.feature_folder(subject.name, i, label)
            for i in layers
            for label in subject.encoded_labels
        ]
        with run.stage(stage, outputs):
            shards = work.shards_of(model, here.text["match"], recipe)
            calls = [base | {"shard": shard, "threads": here.threads} for shard in shards]
            here.tasks(f"encode {subject.name}", work.encode_text, calls)
            calls = [base | {"shards": shards, "layer": layer} for layer in layers]
            here.tasks(f"count features of {subject.name}", work.close_text, calls)


def _store_residuals(here: Here, subject: Subject, model: LanguageModel) -> None:
    """The residuals that dictionaries are trained on."""
    recipe, text = here.recipe, here.text["train"]
    base = {"run": here.path, "recipe": recipe, "subject": subject}
    calls = [base | {"shard": shard} for shard in work.shards_of(model, text, recipe)]
    here.tasks(f"read {subject.name}", work.store_residuals, calls)
    write_residuals(
        model,
        text,
        here.run.residuals_folder(subject.name),
        key=work.model_key(subject, recipe),
        dtype=work.stored_dtype(recipe),
        memory=recipe.run.shard_mib << 20,
    )


def _groups(here: Here, subject: Subject, n_layers: int, d_model: int) -> list[list[int]]:
    """Layers whose dictionaries are trained together: as many as have room, dealt evenly to the
    workers.
    """
    one = (
        2 * d_model * here.recipe.sae.width(d_model) * 4 * 5
    )  # weights, gradients, two moments, the product's copy
    at_once = max(1, here.room // (one * len(subject.labels)))
    if here.threads is not None:
        at_once = min(at_once, max(1, n_layers * here.threads // int(machine()["n_cpus"])))
    return [
        list(range(first, min(first + at_once, n_layers))) for first in range(0, n_layers, at_once)
    ]


def _compare_all(here: Here) -> None:
    """Every comparison as a stage of its own, then the tables of the run from their parts."""
    run, plan = here.run, here.plan
    parts: dict[str, list[Path]] = {table: [] for table in TABLES}
    for comparison in plan.comparisons:
        paths = {
            table: run.cache_folder / "tables" / f"{comparison.key}.{table}.parquet"
            for table in TABLES
        }
        stage = f"match {comparison.key}"
        if not run.is_done(stage) or f"spaces {comparison.key}" in run.record.get("failed", {}):
            needed = comparison.name == "main"  # without it there is nothing to report
            with nullcontext() if needed else by_itself(run, stage, here.progress):
                sides = [
                    folders_of(here, comparison, side) for side in ("a", "b")
                ]  # may be stages of their own
                with run.stage(stage, list(paths.values())):
                    _compare(here, comparison, sides, paths)
        if stage in run.record.get("failed", {}):
            continue
        for table, path in paths.items():
            parts[table].append(path)
    facts = [run.facts(f"dictionaries {s.name}") for s in plan.subjects]
    run.note(models=[fact["model"] for fact in facts])
    frames = {
        table: pl.concat([pl.read_parquet(path) for path in paths])
        for table, paths in parts.items()
    }
    rows = [row for fact in facts for row in fact["saes"]]
    frames["saes"] = pl.DataFrame(rows, infer_schema_length=None, schema_overrides=MAY_BE_NULL)
    folders = partial(folders_of, here)
    columns = here.comparer.columns
    frames |= judged(here.recipe, plan, frames["matches"], frames["saes"], folders, columns)
    here.comparer.forget()
    architectures = {fact["model"]["name"]: fact["model"]["architecture"] for fact in facts}
    frames["variance"] = variance_table(
        frames["matches"], [s.name for s in plan.compared], architectures
    )
    with run.stage("tables", [run.table(name) for name in frames]):
        for name, frame in frames.items():
            write_table(frame, run.table(name))
        warnings = left_out(here.text, here.recipe.interpretation)
        warnings += [note for fact in facts for note in fact["notes"]] + without_seed(
            here.plan, here.recipe
        )
        if 0 < here.most_exchanges < (asked := here.recipe.matching.null_exchanges):
            warnings.append(
                f"the null has {here.most_exchanges} of {asked} exchanges: the text has too few "
                "documents"
            )
        warnings += _warnings(frames["saes"].to_dicts())  # last, for they may be many
        run.note(verdicts=frames["shared"].to_dicts(), warnings=warnings)


def _compare(
    here: Here, comparison: Comparison, sides: list[list[Path]], paths: dict[str, Path]
) -> None:
    recipe, run = here.recipe, here.run
    a, b = sides
    if comparison.name == "neurons":
        shares = {
            c.name: work.share_by_token(s, here.text["neurons"])
            for c, s in zip((comparison.a, comparison.b), sides, strict=True)
        }
        run.note(neurons_by_token=run.record.get("neurons_by_token", {}) | shares)
    n_exchanges = (
        min(recipe.matching.null_exchanges, here.most_exchanges) if comparison.calibrated else 0
    )
    with here.bar(f"match {comparison.title}", len(a) * len(b)) as report:
        matched = here.comparer.match(
            a, b, pairs_folder(run, comparison), (n_exchanges, recipe.run.seed), report
        )
    layers_a, layers_b = matched.layers_a, matched.layers_b
    found = tables_of(
        layers_a, layers_b, matched.pairs(), comparison=comparison.name, fdr=recipe.matching.fdr
    )
    floor = max(1, round(recipe.matching.frequency_floor * layers_a[0].n_tokens))
    summary = summarise(
        found.matches,
        layers_a,
        layers_b,
        seed=recipe.run.seed,
        n_replicates=recipe.matching.resamples,
        frequent=floor,
        columns=here.comparer.columns,
    )
    here.comparer.forget()
    spaces = pl.DataFrame(schema=SPACES_SCHEMA)
    with by_itself(run, f"spaces {comparison.key}", here.progress):
        spaces = _spaces(here, comparison, matched)
    layers = found.layers.join(spaces, on=LAYER_PAIR, how="left", maintain_order="left")
    for table, frame in (("matches", found.matches), ("layers", layers), ("summary", summary)):
        write_table(frame, paths[table])


def _spaces(here: Here, comparison: Comparison, matched: Matched) -> pl.DataFrame:
    """Similarity of spaces of each ordered pair of layers, null where it is not measured."""
    rows: list[dict[str, Any]] = []
    a, b = comparison.a, comparison.b
    base = {"run": here.path, "recipe": here.recipe, "threads": here.threads}
    if (
        comparison.name in ("main", "random-model", "model-seed")
        and here.recipe.matching.space_tokens
    ):
        (rows,) = here.tasks(
            f"residuals of {comparison.title}", compare_residuals, [base | {"a": a, "b": b}]
        )
    if comparison.name == "main":
        saes = [
            [here.run.sae_folder(s.name, i).absolute() for i in range(n)]
            for s, n in ((a, len(matched.layers_a)), (b, len(matched.layers_b)))
        ]
        common = {
            "saes_b": saes[1],
            "least_r": here.recipe.matching.homolog_r,
            "seed": here.recipe.run.seed,
            "threads": here.threads,
        }
        calls = [
            common | {"sae_a": sae, "files": files}
            for sae, files in zip(saes[0], matched.files, strict=True)
        ]
        found = [
            row
            for part in here.tasks(f"decoders of {comparison.title}", compare_decoders, calls)
            for row in part
        ]
        names = [(i, j) for i in range(len(saes[0])) for j in range(len(saes[1]))]
        known = {(row["layer"], row["best_layer"]): row for row in rows}
        rows = [
            {"model": a.name, "layer": i, "best_model": b.name, "best_layer": j}
            | known.get((i, j), {})
            | row
            for (i, j), row in zip(names, found, strict=True)
        ]
    turned = {
        "model": "best_model",
        "layer": "best_layer",
        "best_model": "model",
        "best_layer": "layer",
    }
    rows += [{turned.get(key, key): value for key, value in row.items()} for row in rows]
    return pl.DataFrame(rows, schema=SPACES_SCHEMA).with_columns(pl.col(pl.Float64).fill_nan(None))


def pairs_folder(run: RunFolder, comparison: Comparison) -> Path:
    """Where the finished pairs of layers of a comparison lie until the run ends."""
    return run.cache_folder / "pairs" / comparison.key


def folders_of(here: Here, comparison: Comparison, side: str) -> list[Path]:
    """The folders of the features of side "a" or "b", one a layer; makes those that are no
    dictionary's.
    """
    subject, label = getattr(comparison, side), getattr(comparison, f"label_{side}")
    if subject == CURRENT_TOKEN:
        folder = here.run.cache_folder / "current-token"
        if here.lacks("current-token"):
            with here.run.stage("current-token", [folder]):
                work.store_current_token(folder, here.text["match"])
        return [folder]
    n_layers = here.run.facts(f"dictionaries {subject.name}")["model"]["n_layers"]
    if comparison.kind == "neuron":
        return _neurons(here, subject, n_layers)
    return [here.run.feature_folder(subject.name, layer, label) for layer in range(n_layers)]


def _neurons(here: Here, subject: Subject, n_layers: int) -> list[Path]:
    folders = [work.neuron_folder(here.run.path, subject.name, layer) for layer in range(n_layers)]
    stage = f"neurons {subject.name}"
    if here.lacks(stage):
        base = {"run": here.path, "recipe": here.recipe, "subject": subject}
        shards = work.shards_of(
            work.load_subject(subject, here.recipe), here.text["neurons"], here.recipe
        )
        with here.run.stage(stage, folders):
            here.tasks(
                f"neurons of {subject.name}",
                work.store_neurons,
                [base | {"shard": shard} for shard in shards],
            )
            calls = [base | {"shards": shards, "layer": layer} for layer in range(n_layers)]
            here.tasks(f"count neurons of {subject.name}", work.close_neurons, calls)
    return folders


def _warnings(saes: list[dict[str, Any]]) -> list[str]:
    return [
        f"{r['model']}, layer {r['layer']} ({r['label']}): {r['reason']}"
        for r in saes
        if not r["passed"]
    ]


def _expected_seconds(plan: Plan, with_circuits: bool) -> dict[str, float]:
    """Shares of the work, for the estimate of the time left; they only need to be in proportion."""
    expected: dict[str, float] = {}
    for s in plan.subjects:
        n = len(s.labels)
        steps = (
            {"load dictionaries of {}": n}
            if s.saes
            else {"read {}": 6, "train dictionaries of {}": 29 * n}
        )
        steps |= {"encode {}": 3 * len(s.encoded_labels)}
        expected |= {step.format(s.name): float(seconds) for step, seconds in steps.items()}
    expected |= {f"match {comparison.title}": 4.0 for comparison in plan.comparisons}
    if with_circuits:
        steps = {"patch paths in {}": 6.0, "off by one in {}": 5.0, "discover edges of {}": 5.0}
        expected |= {
            step.format(s.name): seconds for s in plan.compared for step, seconds in steps.items()
        }
    return expected | {"write the report": 10.0}
