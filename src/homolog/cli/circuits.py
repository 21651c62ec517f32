"""`homolog circuits`: how models do a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homolog.cli.options import options_from
from homolog.cli.shared import Out, Quiet
from homolog.errors import InputError
from homolog.record.circuits import CircuitSearch
from homolog.record.names import folder_name
from homolog.record.recipe import Circuits, Machine, RunSettings, SaeRecipe, WindowBeginning
from homolog.record.settings import meaning
from homolog.terminal import say_report

if TYPE_CHECKING:
    import polars as pl

app = typer.Typer()

Models = Annotated[
    list[str], typer.Argument(metavar="MODEL...", help="Zoo names, folders, GGUF files or Hub ids.")
]
Task = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="induction, associative_recall, natural_induction, ioi, greater_than, or a "
        ".jsonl file of prompts.",
    ),
]


@app.command("induction")
@options_from(
    Machine, WindowBeginning, Circuits, leave={"task", "discovery_prompts", "validated_edges"}
)
def induction(
    models: Models,
    values: dict[str, Any],
    out: Out = None,
    expect: Annotated[
        bool,
        typer.Option(
            "--expect", help="Repeat the paper's experiments instead, beside its released numbers."
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Find the parts of each model that do induction, and whether its state is off by one."""
    from homolog.pipeline.circuits import expected_lines, run_circuits
    from homolog.pipeline.recipes import parse_circuits
    from homolog.progress import make_progress
    from homolog.record.run_folder import RunFolder

    bos = values.pop("bos")
    where, settings = _split(values)
    if expect:
        prompts, batch = settings["n_prompts"], settings["batch"]
        for ref in models:
            for line in expected_lines(
                ref, prompts, batch, RunSettings(**where), make_progress(quiet)
            ):
                typer.echo(line)
        return
    name = "-".join(["circuits", *map(folder_name, models)])
    of_models = {"models": models, "bos": bos}
    recipe = parse_circuits({"name": name, "run": where, "circuits": settings} | of_models)
    target = out or Path("runs") / name
    page = run_circuits(recipe, target, make_progress(quiet))
    say_report(page, RunFolder(target).record)


@app.command("discover")
@options_from(Machine, WindowBeginning, CircuitSearch)
def discover(
    task: Task,
    models: Models,
    values: dict[str, Any],
    out: Out = None,
    prompts: Annotated[int, typer.Option("--prompts", min=2, help="Prompts of the task.")] = 64,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="Of the task, as repeat=4; again."),
    ] = None,
    text: Annotated[
        str,
        typer.Option(
            "--text",
            metavar="SOURCE",
            help=f"Of natural_induction: {meaning(SaeRecipe.model_fields['text'])}",
        ),
    ] = "zoo:demo",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    quiet: Quiet = False,
) -> None:
    """Attribute all edges of each model on a task; score the circuit that the strongest make."""
    from homolog.pipeline.discovery import DiscoveryRequest, discover_circuits
    from homolog.progress import make_progress

    bos = values.pop("bos")
    where, search = _split(values)
    options = dict(_option(words) for words in option or ())
    how = CircuitSearch(**search), RunSettings(**where), bos
    request = DiscoveryRequest(task, tuple(models), prompts, options, text, *how)
    name = "-".join(["discover", Path(task).stem, *map(folder_name, models)])
    target = out or Path("runs") / name
    table = discover_circuits(request, target, make_progress(quiet or as_json))
    if as_json:
        typer.echo(json.dumps(table.fill_nan(None).to_dicts(), indent=1))
        return
    for line in score_lines(table):
        typer.echo(line)
    typer.echo(f"Tables: {target}")


def _split(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Where the models run, and the other settings."""
    where = {name: values[name] for name in Machine.model_fields}
    return where, {name: value for name, value in values.items() if name not in where}


def _option(words: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as JSON where it is JSON: repeat=4, corruption=swap."""
    name, equals, value = words.partition("=")
    if not equals:
        raise InputError("--option", words, "it must be NAME=VALUE", "Give for example repeat=4.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def score_lines(table: pl.DataFrame) -> list[str]:
    """`task_circuits` for people: a line for each model, and what its scores cannot say."""
    import polars as pl

    wide = max(len("model"), *map(len, table["model"]))
    lines = [
        f"{'model':<{wide}}  {'solved':>6}  {'nodes':>9}  {'needed':>6}  "
        f"{'faithfulness':>22}  {'largest gap':>22}  {'scores r':>8}"
    ]
    for row in table.iter_rows(named=True):
        nodes = f"{row['n_nodes']} of {row['n_nodes_of_model']}"
        lines.append(
            f"{row['model']:<{wide}}  {row['accuracy']:>6.0%}  {nodes:>9}  {row['n_needed']:>6}  "
            f"{_interval(row, 'faithfulness'):>22}  {_interval(row, 'largest_gap'):>22}  "
            f"{row['pearson']:>8.3f}"
        )
    whole = table.filter(pl.col("n_nodes") == pl.col("n_nodes_of_model"))["model"].to_list()
    if whole:
        lines.append(
            f"The circuit is the whole of {', '.join(whole)}, and its scores say nothing: take "
            "fewer --edges."
        )
    return lines


def _interval(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.2f} [{row[f'{name}_lo']:.2f}, {row[f'{name}_hi']:.2f}]"
