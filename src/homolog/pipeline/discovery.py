"""The circuit of a task in each of some models: prompts, attribution, evaluation, tables.

    task -> prompts of each model's own tokens -> `find_circuit` -> tables `task_...`

Every model is a stage of the run folder, so that the same command continues a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import polars as pl

from homolog.circuits.tables import TASK_TABLES
from homolog.circuits.task_circuit import find_circuit, transfers
from homolog.corpus import TokenWindows, pack, read_documents
from homolog.corpus.tasks import PromptPairs, make_task
from homolog.corpus.tasks.pairs import tokenizer_of
from homolog.errors import InputError
from homolog.models import load_tokenizer, require_inner_sites, require_positions
from homolog.models.beginning import AUTO
from homolog.pipeline.beginnings import CONTEXT, DEMO, begins_with, note_beginnings, read_on_text
from homolog.pipeline.circuits import load_where, named_once
from homolog.pipeline.inputs import text_input, tokenizer_input
from homolog.pipeline.models import weights_of
from homolog.progress import Progress
from homolog.record.circuits import CircuitSearch
from homolog.record.comparisons import StudyModel
from homolog.record.inputs import Input, contents_of
from homolog.record.recipe import RunSettings
from homolog.record.run_folder import RunFolder
from homolog.record.tables import TASK_CIRCUITS, TASK_TRANSFERS

FROM_TEXT = "natural_induction"  # the task whose prompts are places of a text


@dataclass(frozen=True)
class DiscoveryRequest:
    """What is asked for."""

    task: str
    """One of `corpus.tasks.TASKS`, or a .jsonl file of prompts."""

    models: tuple[str, ...]
    """Zoo names, folders or Hub ids."""

    n_prompts: int = 64
    """Prompts of the task."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the task's own function: length, repeat, corruption, ..."""

    text: str = DEMO
    """Where natural_induction takes its prompts from."""

    search: CircuitSearch = field(default_factory=CircuitSearch)
    """How the circuit is found and evaluated."""

    where: RunSettings = field(default_factory=RunSettings)
    """Seed, device and precision."""

    bos: str = AUTO
    """Whether prompts begin with a model's beginning-of-text token (`recipe.WindowBeginning`)."""

    @property
    def file(self) -> Path | None:
        """The user's own prompts."""
        own = self.task.endswith(".jsonl")
        return Path(self.task).expanduser().absolute() if own else None

    def values(self) -> dict[str, Any]:
        """As JSON values: what run.json holds."""
        return {
            "task": str(self.file or self.task),
            "models": list(self.models),
            "n_prompts": self.n_prompts,
            "options": dict(self.options),
            "text": self.text if self.task == FROM_TEXT else None,
            "bos": self.bos,
            "search": self.search.values(),
            "run": self.where.model_dump(mode="json", include={"seed", "device", "dtype"}),
        }

    def pairs(self, vocabulary: Any) -> PromptPairs:
        """The prompts in a model's own tokens; vocabulary: the model, or its tokenizer."""
        options = dict(self.options)
        if self.task == FROM_TEXT:
            options["windows"] = self.windows(tokenizer_of(vocabulary, FROM_TEXT))
        return make_task(self.task, vocabulary, self.n_prompts, seed=self.where.seed, **options)

    def windows(self, tokenizer: Any) -> TokenWindows:
        """The text that natural_induction is taken from."""
        return pack(read_documents(self.text, shuffle=False), tokenizer, CONTEXT)


def discover_circuits(request: DiscoveryRequest, out: Path, progress: Progress) -> pl.DataFrame:
    """Find each model's circuit of the task, into the folder `out`; returns `task_circuits`.

    Errors: InputError for models, a task or a folder that cannot be used, as far as possible before
    anything is written.
    """
    models = named_once(request.models, bos=request.bos)
    for model in models:
        require_inner_sites(model.ref, "attributing edges", "Name models of these architectures.")
    begun = begins_with(models)
    beginnings: dict[str, Any] | None = None
    if not (out / "run.json").exists():
        RunFolder.require_place(out)
        for model in models:
            _check_prompts(request, model)
        beginnings = _beginnings(request, models)
    run = RunFolder.open(out, request.values())
    try:
        run.check_inputs(_inputs(request, models))
        run.note(begins_with=begun)
        if "beginnings" not in run.record:
            note_beginnings(run, beginnings or _beginnings(request, models), progress)
        _trace_models(run, request, models, progress)
        run.drop_cache()
        return TASK_CIRCUITS.read(run.table(TASK_CIRCUITS))
    finally:
        run.close()


def _beginnings(request: DiscoveryRequest, models: Sequence[StudyModel]) -> dict[str, Any]:
    """What beginnings are worth on the text that prompts come from, else on that of the zoo."""
    text = request.text if request.task == FROM_TEXT else DEMO
    return read_on_text(lambda model: load_where(model, request.where), models, text)


def _check_prompts(request: DiscoveryRequest, model: StudyModel) -> None:
    """InputError where the tokenizer makes no such prompts, or the model has no such positions."""
    try:
        tokenizer = load_tokenizer(model.ref, model.revision)
    except InputError:
        return  # the task may need none; the model, once loaded, says so
    length = request.pairs(tokenizer).length
    require_positions(model.ref, length, "length", model.revision)


def _inputs(request: DiscoveryRequest, models: Sequence[StudyModel]) -> list[Input]:
    """All that the run reads."""
    inputs = [*weights_of(models), *(tokenizer_input(s.ref, s.revision) for s in models)]
    if request.file is not None:
        files = (request.file,)
        inputs.append(Input(f"the task {request.task}", files, cache(partial(contents_of, files))))
    if request.task == FROM_TEXT:
        first = models[0]

        def contents() -> str:
            return request.windows(load_tokenizer(first.ref, first.revision)).hash

        inputs.append(text_input(request.text, contents))
    return inputs


def _trace_models(
    run: RunFolder, request: DiscoveryRequest, models: Sequence[StudyModel], progress: Progress
) -> None:
    """The tables of one model after the other, each a stage, then those of the run."""
    if run.is_done("task circuits"):
        return
    parts = []
    for model in models:
        stage, folder = f"circuit of {request.task} in {model.name}", run.cache_folder / model.name
        files = {table: folder / table.file for table in TASK_TABLES}
        if not run.is_done(stage):
            with run.stage(stage, files.values()):
                tables = _trace(request, progress, model)
                for table, file in files.items():
                    table.write(tables[table.name], file)
        parts.append(files)
    with run.stage("task circuits", [run.table(table) for table in TASK_TABLES]):
        for table in TASK_TABLES:
            frames = [table.read(files[table]) for files in parts]
            table.write(pl.concat(frames), run.table(table))


def _trace(
    request: DiscoveryRequest, progress: Progress, model: StudyModel
) -> dict[str, pl.DataFrame]:
    """The tables of one model."""
    loaded = load_where(model, request.where)
    pairs = request.pairs(loaded)
    with progress.stage(f"find the circuit of {pairs.name} in {model.name}"):
        circuit = find_circuit(loaded, pairs, request.search, request.where.seed)
    return circuit.tables(model.name) | {TASK_TRANSFERS.name: transfers([circuit], model.name)}
