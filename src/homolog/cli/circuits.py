"""`homolog circuits`: how models do a task, or several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from homolog.cli.options import options_from
from homolog.cli.shared import Out, Quiet
from homolog.errors import InputError
from homolog.record.circuits import INDUCTION, TASK_NAMES
from homolog.record.names import folder_name
from homolog.record.recipe import Circuits, Machine, RunSettings, WindowBeginning
from homolog.terminal import say_report

app = typer.Typer(add_completion=False)

Models = Annotated[
    list[str], typer.Argument(metavar="MODEL...", help="Zoo names, folders, GGUF files or Hub ids.")
]
Tasks = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help=f"{', '.join(TASK_NAMES)}, or a file of prompts; several with commas between them.",
    ),
]


@app.command("circuits")
@options_from(Machine, WindowBeginning, Circuits, leave={"tasks", "options"})
def circuits(
    task: Tasks,
    models: Models,
    values: dict[str, Any],
    out: Out = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="Of a task, as n_pairs=4; again."),
    ] = None,
    expect: Annotated[
        bool,
        typer.Option(
            "--expect", help="Repeat the paper's experiments instead, beside its released numbers."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    quiet: Quiet = False,
) -> None:
    """Find the circuits of tasks in models: roles and Off-by-One of induction, discovery of any."""
    from homolog.pipeline.circuits import run_circuits
    from homolog.pipeline.recipes import parse_circuits
    from homolog.pipeline.run_study import words_of
    from homolog.progress import make_progress
    from homolog.record.run_folder import RunFolder

    bos = values.pop("bos")
    where = {name: values.pop(name) for name in Machine.model_fields}
    tasks = [_task(word.strip()) for word in task.split(",")]
    if expect:
        _repeat(tasks, models, where, values, quiet)
        return
    asked = values | {"tasks": tasks, "options": dict(_option(words) for words in option or ())}
    name = "-".join(["circuits", *(Path(word).stem for word in tasks), *map(folder_name, models)])
    of_models = {"models": models, "bos": bos}
    recipe = parse_circuits({"name": name, "run": where, "circuits": asked} | of_models)
    target = out or Path("runs") / name
    page = run_circuits(recipe, target, make_progress(quiet or as_json))
    run = RunFolder(target)
    if as_json:
        typer.echo(json.dumps(_rows(run), indent=1))
        return
    for words in words_of(run.record):
        typer.echo(words)
    say_report(page, run.record)


def _repeat(
    tasks: Sequence[str],
    models: Sequence[str],
    where: dict[str, Any],
    values: dict[str, Any],
    quiet: bool,
) -> None:
    """The paper's experiments beside its numbers, which are of induction."""
    from homolog.pipeline.circuits import expected_lines
    from homolog.progress import make_progress

    if list(tasks) != [INDUCTION]:
        requirement = "released numbers are of induction"
        raise InputError("--expect", ",".join(tasks), requirement, "Give induction as the task.")
    of = values["n_prompts"], values["batch"], RunSettings(**where), make_progress(quiet)
    for ref in models:
        for line in expected_lines(ref, *of):
            typer.echo(line)


def _rows(run: Any) -> dict[str, Any]:
    """The rows of the tables of circuits that the run has, by table."""
    from homolog.record.tables import CIRCUITS, TASK_CIRCUITS

    return {
        table.name: table.read(run.table(table)).fill_nan(None).to_dicts()
        for table in (CIRCUITS, TASK_CIRCUITS)
        if run.table(table).is_file()
    }


def _task(word: str) -> str:
    """A task; of a file the whole path, for a run may go on from another folder."""
    own = word.endswith(".jsonl")
    return str(Path(word).expanduser().absolute()) if own else word


def _option(words: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as JSON where it is JSON: n_pairs=4, corruption=swap."""
    name, equals, value = words.partition("=")
    if not equals:
        raise InputError("--option", words, "it must be NAME=VALUE", "Give for example n_pairs=4.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
