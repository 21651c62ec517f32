"""The command line.  Exit code 0: done; 1: failed; 2: unusable input; 130: stopped by Ctrl-C.

A word that is empty or not UTF-8 is unusable.  Output whose reader has left (`| head`) is dropped,
and the command goes on.

Nothing heavy is imported before a command needs it: `homolog --help` answers at once.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from homolog.cli.shared import Out, Quiet, Threads, command_of, group_of
from homolog.errors import InputError
from homolog.memory import keep_freed_memory
from homolog.record import finished
from homolog.record.built_in import built_in_recipes, recipe_bytes
from homolog.terminal import (
    Commands,
    complain,
    make_output_patient,
    report_line,
    say_report,
    stop_on_sigterm,
)

if TYPE_CHECKING:
    from homolog.record.recipe import Recipe
    from homolog.serve.server import Prompt


app = typer.Typer(
    cls=Commands,
    help="Finds the homologous features and circuits of two language models of different "
    "architectures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
GROUPS = {
    "zoo": "The small trained models that ship with the package.",
    "model": "Models of your own: GGUF files to Hugging Face folders.",
    "sae": "Dictionaries (sparse autoencoders) of one model: train, evaluate, convert.",
}
for name, words in GROUPS.items():
    app.add_typer(group_of(f"homolog.cli.{name}", words), name=name)

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="local|ADDRESS", help="Run the tasks on Ray.", show_default=False
    ),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, as runs/demo.")]
OtherDevice = Annotated[
    str | None, typer.Option("--device", help="Replaces the recipe's.", show_default=False)
]
OtherSeed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Replaces the recipe's.", show_default=False)
]


@dataclass(frozen=True)
class Asked:
    """A recipe and the options that change it."""

    ref: str
    seed: int | None = None
    device: str | None = None
    random_weights: bool = False
    tokens: int | None = None
    blocks: int | None = None

    @property
    def key(self) -> str:
        """Identifies all of it."""
        options = {key: value for key, value in vars(self).items() if key != "ref"}
        return finished.asked(recipe_bytes(self.ref), options)

    @property
    def folder(self) -> Path:
        """Where its run lies, if nothing else is said and the recipe is one."""
        try:
            name = tomllib.loads(recipe_bytes(self.ref).decode("utf-8")).get("name")
        except ValueError:
            name = None
        return Path("runs", str(name or Path(self.ref).stem))

    def recipe(self) -> Recipe:
        """The recipe, changed.  Raises InputError."""
        from homolog.pipeline.recipes import load_recipe

        loaded = load_recipe(self.ref)
        if self.random_weights:
            loaded = loaded.rehearsal(self.tokens or 20_000, self.blocks)
        elif self.tokens is not None or self.blocks is not None:
            only_tokens = self.tokens is not None
            field = "--tokens" if only_tokens else "--blocks"
            value = self.tokens if only_tokens else self.blocks
            remedy = "Give --random-weights too, or change the recipe."
            raise InputError(field, value, "it belongs to a rehearsal", remedy)
        return loaded.with_run(seed=self.seed, device=self.device)


@app.command()
def demo(
    out: Out = None,
    device: OtherDevice = None,
    seed: OtherSeed = None,
    ray: Ray = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Compare the Transformer and the Mamba that ship, from text to report, in minutes."""
    _study(Asked("demo", seed=seed, device=device), out, ray, threads, quiet)


@app.command()
def run(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help=f"A TOML file, or a built-in: {', '.join(built_in_recipes())}.",
        ),
    ],
    out: Out = None,
    device: OtherDevice = None,
    seed: OtherSeed = None,
    random_weights: Annotated[
        bool,
        typer.Option(
            "--random-weights", help="Rehearse at true size with random weights, without a network."
        ),
    ] = False,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", min=1, help="Tokens of a rehearsal.", show_default=False),
    ] = None,
    blocks: Annotated[
        int | None,
        typer.Option(
            "--blocks", min=1, help="Blocks of each model in a rehearsal.", show_default=False
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what it will cost, and run nothing.")
    ] = False,
    ray: Ray = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Run a recipe, or continue its run, and write its report."""
    asked = Asked(recipe, seed, device, random_weights, tokens, blocks)
    if plan:
        _say_costs(asked.recipe(), out, threads)
    else:
        _study(asked, out, ray, threads, quiet)


@app.command(cls=command_of("homolog.cli.circuits"))
def circuits() -> None:
    """Find the circuits of tasks in models: roles and Off-by-One of induction, discovery of any."""


@app.command(cls=command_of("homolog.cli.match"))
def match() -> None:
    """Say which features of two matrices over the same rows are homologs, without models."""


@app.command()
def report(path: RunArgument) -> None:
    """Write the report of a run again, from its tables."""
    from homolog.report import write_report

    typer.echo(f"Report: {write_report(path)}")


@app.command()
def figures(
    path: RunArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    names: Annotated[
        list[str] | None,
        typer.Option("--figure", help="Only this one; may be given again.", show_default=False),
    ] = None,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="svg, pdf or png; all three by default.")
    ] = None,
    scale: Annotated[
        float, typer.Option("--scale", min=0.1, help="Pixels of a PNG per CSS pixel.")
    ] = 2.0,
) -> None:
    """Draw the figures of a report as files for a paper."""
    from homolog.report.export import FORMATS, export_figures

    for file in export_figures(path / "report", out, formats or FORMATS, names or (), scale):
        typer.echo(file)


@app.command()
def export(
    path: RunArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the files; RUN/csv by default.")
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--table", help="Only this one; may be given again.", show_default=False),
    ] = None,
    form: Annotated[Literal["csv"], typer.Option("--format", help="Of the files.")] = "csv",
) -> None:
    """Write the tables of a run as CSV."""
    from homolog.pipeline.export import export_tables
    from homolog.pipeline.study import Study

    for file in export_tables(Study.load(path), out or path / form, names or ()):
        typer.echo(file)


@app.command()
def cite(path: RunArgument) -> None:
    """Print the methods of a run in sentences, with its settings, and BibTeX."""
    from homolog.report.citation import citation

    typer.echo(citation(path), nl=False)


@app.command()
def neuronpedia(
    path: RunArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    creator: Annotated[str, typer.Option("--creator", help="Who publishes.")],
    release: Annotated[
        str, typer.Option("--release", help="Short name of the release, as it stands in addresses.")
    ],
    title: Annotated[
        str, typer.Option("--title", help="Title of the release.")
    ] = "Features compared by homolog",
    model_id: Annotated[
        list[str] | None,
        typer.Option("--model-id", metavar="MODEL=ID", help="Neuronpedia's name of a model."),
    ] = None,
) -> None:
    """Write features, examples and explanations as Neuronpedia imports them."""
    from homolog.report.neuronpedia import Release, export_neuronpedia

    if wrong := [text for text in model_id or () if "=" not in text]:
        raise InputError(
            "--model-id", wrong[0], "it must be MODEL=ID", "Give for example mamba-s0=my-mamba."
        )
    ids = dict(text.split("=", 1) for text in model_id or ())
    for folder in export_neuronpedia(path, out, Release(creator, release, title, model_ids=ids)):
        typer.echo(folder)


@app.command()
def rate(
    path: RunArgument,
    llm: Annotated[
        tuple[str, str],
        typer.Option(
            "--llm", metavar="URL MODEL", help="An OpenAI-compatible endpoint and its model."
        ),
    ],
    features: Annotated[
        int, typer.Option("--features", min=1, help="Features of each model that are rated.")
    ] = 200,
    requests: Annotated[
        int | None, typer.Option("--requests", min=1, help="Most requests.", show_default=False)
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", min=1, help="Most tokens.", show_default=False)
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, help="Requests at a time.")
    ] = 8,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of the choice of features and texts.")
    ] = 0,
    quiet: Quiet = False,
) -> None:
    """Let a language model explain and rate features; its key comes from OPENAI_API_KEY."""
    from homolog.analyses.ratings import Budget, Endpoint
    from homolog.pipeline.rate import rate_run
    from homolog.progress import make_progress

    endpoint, budget = Endpoint(*llm, concurrency=concurrency), Budget(requests, tokens)
    page = rate_run(path, endpoint, features, budget, make_progress(quiet), typer.echo, seed=seed)
    typer.echo(f"Report: {page}")


@app.command()
def serve(
    path: RunArgument,
    port: Annotated[int, typer.Option("--port", min=0, max=65535)] = 8000,
    device: OtherDevice = None,
    pages_only: Annotated[
        bool, typer.Option("--pages-only", help="Load no models: no prompt to try.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Serve a run folder, and only that, to browsers on this machine, with a prompt to try."""
    from homolog.serve import START_PAGE, make_server

    with make_server(path, port) as server:
        server.prompt = prompt = None if pages_only else _prompt(path, device, quiet)
        at = f"http://localhost:{server.server_port}"
        if prompt is None:
            typer.echo(f"{at}{START_PAGE}   (Ctrl-C ends it)")
        else:
            typer.echo(f"Report: {at}{START_PAGE}?token={prompt.token}")
            typer.echo(f"A prompt to try: {at}{prompt.page}   (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("Ended.")


@app.command()
def verify(path: RunArgument) -> None:
    """Check every file of a run against the checksum recorded when it was written."""
    from homolog.record.run_folder import RunFolder

    folder = RunFolder(path)
    problems = folder.verify()
    for problem in problems:
        typer.echo(problem)
    if problems:
        complain(
            f"{len(problems)} problem(s). Start the run again with the same --out: it is rebuilt."
        )
        raise typer.Exit(1)
    stages = folder.record["stages"].values()
    typer.echo(
        f"{sum(len(stage['outputs']) for stage in stages)} files of {len(stages)} stages: all as "
        "written."
    )


@app.command()
def doctor() -> None:
    """Say what this machine offers and what would be used of it."""
    from homolog.doctor import findings

    for topic, finding in findings().items():
        typer.echo(f"{topic:<26}{finding}")


def main() -> None:
    """Entry point of `homolog`."""
    keep_freed_memory()
    make_output_patient()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    stop_on_sigterm()
    app(prog_name="homolog")


def _prompt(path: Path, device: str | None, quiet: bool) -> Prompt:
    """What answers prompts, loaded; or what is missing, which is said here and on its page."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # what the run has read is here, or missing
    from homolog.progress import make_progress
    from homolog.serve.opening import open_desk
    from homolog.serve.server import Prompt

    try:
        return Prompt(open_desk(path, make_progress(quiet), device))
    except InputError as error:
        complain(f"No prompt to try: {error}")
        return Prompt(None, str(error))


def _say_costs(recipe: Recipe, out: Path | None, threads: int | None) -> None:
    from homolog.pipeline.pace import measured_pace
    from homolog.pipeline.plan import Plan, Room

    room = Room.at(out or Path("runs") / recipe.name)
    for line in Plan.of(recipe, measured_pace(recipe, threads), room).lines():
        typer.echo(line)


def _study(
    asked: Asked, out: Path | None, ray: str | None, threads: int | None, quiet: bool
) -> None:
    if (lines := finished.remembered(out or asked.folder, asked.key)) is not None:
        typer.echo("\n".join(lines))
        return
    from homolog.pipeline.grid import run_grid
    from homolog.pipeline.models import files_read
    from homolog.pipeline.run_study import run_study, words_of
    from homolog.progress import make_progress
    from homolog.record.run_folder import RunFolder

    recipe = asked.recipe()
    target = out or Path("runs") / recipe.name
    run = run_study if recipe.grid is None else run_grid
    path = run(recipe, target, make_progress(quiet), ray=ray, threads=threads)
    record = RunFolder(target).record
    words = words_of(record)
    for line in words:
        typer.echo(line)
    if not record.get("failed"):
        finished.remember(target, asked.key, [*words, report_line(path)], files_read(recipe))
    say_report(path, record)
