"""`homolog sae`: train, evaluate and convert dictionaries of one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homolog.cli.options import kind_options, options_from
from homolog.cli.shared import Out, Quiet, Threads
from homolog.record.layers import ALL
from homolog.record.recipe import EvaluationRecipe, SaeRecipe
from homolog.record.settings import meaning

if TYPE_CHECKING:
    from homolog.pipeline.sae import Row

app = typer.Typer()
LAYERS = meaning(SaeRecipe.model_fields["layers"])


@app.command("train")
@options_from(SaeRecipe, leave={"model", "layers"}, also=kind_options())
def train(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A zoo name, a folder, a GGUF file or a Hub id.")
    ],
    values: dict[str, Any],
    out: Out = None,
    layers: Annotated[str, typer.Option("--layers", help=LAYERS)] = ALL,
    threads: Threads = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            "--checkpoint-every", min=1, help="Tokens between checkpoints.", show_default=False
        ),
    ] = None,
    wandb: Annotated[
        str | None,
        typer.Option(
            "--wandb", metavar="PROJECT", help="Also tell Weights & Biases.", show_default=False
        ),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            "--tensorboard", metavar="DIR", help="Also tell TensorBoard.", show_default=False
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train the dictionaries of all layers and seeds of a model on one stream, and measure them on
    held-out text.
    """
    from homolog.dictionaries import TrainingDivergedError
    from homolog.pipeline.recipes import parse_saes
    from homolog.pipeline.sae import train_saes
    from homolog.progress import make_progress

    recipe = parse_saes(model=model, layers=layers, **values)
    target = out or Path("runs") / f"saes-{recipe.name}"
    try:
        rows = train_saes(
            recipe,
            target,
            make_progress(quiet),
            checkpoint_every=checkpoint_every,
            workers=threads,
            wandb=wandb,
            tensorboard_folder=tensorboard,
        )
    except TrainingDivergedError as error:
        typer.echo(f"homolog: training diverged: {error}", err=True)
        raise typer.Exit(1) from None
    for line in quality_table(rows):
        typer.echo(line)
    typer.echo(f"Dictionaries: {target / 'saes'}")


@app.command("eval")
@options_from(EvaluationRecipe, leave={"sae", "seed", "shuffle"})
def evaluate(
    ref: Annotated[
        str,
        typer.Argument(
            metavar="SAE", help="Folder of a dictionary, of any format, or hf:OWNER/NAME/FOLDER."
        ),
    ],
    values: dict[str, Any],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    quiet: Quiet = False,
) -> None:
    """Measure a dictionary on text, and compare with the quality that its file carries.

    Exit code 1 where that differs on the text held out from its training.
    """
    from homolog.pipeline.sae_eval import evaluate_sae
    from homolog.progress import make_progress

    recipe = EvaluationRecipe.parse({"sae": ref} | values)
    evaluation = evaluate_sae(recipe, make_progress(quiet or as_json))
    json_lines = [json.dumps(evaluation.values(), indent=1, allow_nan=False)]
    for line in json_lines if as_json else evaluation.lines():
        typer.echo(line)
    if evaluation.agrees is False and recipe.text is None:
        raise typer.Exit(1)


@app.command("convert")
def convert(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="Folder of a dictionary, or hf:OWNER/NAME/FOLDER.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the converted one.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="homolog (SAELens reads it), sparsify, dictionary_learning, llamascopium.",
        ),
    ],
) -> None:
    """Write a dictionary in the layout of another library, the same features exactly."""
    from homolog.dictionaries import convert as converted

    for file in converted(source, target, to):
        typer.echo(file)


def quality_table(rows: list[Row]) -> list[str]:
    """Lines of a table of dictionaries with their quality."""
    lines = [
        ["layer", "label", "explained", "L0", "dead", "loss recovered", "seeds agree", "verdict"]
    ]
    for row in rows:
        forms = {
            "explained_variance": ".3f",
            "l0": ".1f",
            "dead_share": ".0%",
            "loss_recovered": ".3f",
            "seed_agreement": ".3f",
        }
        numbers = (
            "-" if row[name] is None else format(row[name], form) for name, form in forms.items()
        )
        lines.append([str(row["layer"]), row["label"], *numbers, row["reason"]])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = "><>>>>><"
    padded = [
        [f"{cell:{side}{w}}" for side, cell, w in zip(sides, line, widths, strict=True)]
        for line in lines
    ]
    return ["  ".join(line).rstrip() for line in padded]
