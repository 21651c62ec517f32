"""`homolog zoo`: the models that ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from homolog.cli.options import Device
from homolog.cli.shared import Out, Quiet
from homolog.errors import InputError

app = typer.Typer()
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="A model of the zoo, as mamba-s0.")
]


@app.command("list")
def zoo_list() -> None:
    """Name the models that ship."""
    from homolog.zoo import catalog

    for name in catalog.names():
        entry = catalog.entry(name)
        size = sum(file.stat().st_size for file in entry.folder.glob("*"))
        stored = "not stored" if entry.trained else "made from its seed"
        stored = f"{size / 2**20:.1f} MiB" if size else stored
        words = f"{name:<22}{entry.architecture:<12}seed {entry.seed:<8}{stored}"
        typer.echo(f"{catalog.PREFIX}{words}")


@app.command("card")
def zoo_card(name: NameArgument) -> None:
    """Print a model's card: data, licences, recipe, losses, induction."""
    from homolog.zoo import catalog

    entry = catalog.entry(name)
    card = entry.folder / "README.md"
    if not card.is_file():
        raise InputError(
            "model",
            name,
            "it must be one that is stored, with a card",
            "`homolog zoo list` says which are.",
        )
    typer.echo(card.read_text(encoding="utf-8"))


@app.command("train")
def zoo_train(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A family and a seed, as mamba-2-s0.")
    ],
    text: Annotated[
        Path,
        typer.Option("--text", help="The folder that homolog.zoo_training.text made."),
    ],
    out: Out = None,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Train a model of the zoo again; the same --out continues where it stopped."""
    from homolog.progress import make_progress
    from homolog.zoo_training.train import train

    target = out or Path("runs") / "zoo" / name
    typer.echo(f"Model: {train(name, target, text, device, progress=make_progress(quiet))}")


@app.command("eval")
def zoo_eval(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A zoo name, a folder, a GGUF file or a Hub id.")
    ],
    device: Device = "cpu",
) -> None:
    """Measure a model's held-out loss and induction on the text that ships; prints JSON.

    A model of the zoo is measured on what was held out from its training.
    """
    from homolog.models.load import load
    from homolog.reference import resolve
    from homolog.zoo import catalog
    from homolog.zoo_training.evaluate import scores

    model = load(name, device=device)
    found = resolve(name)
    text = catalog.entry(found.name).text if found.kind == "zoo" else "zoo:demo"
    typer.echo(json.dumps(scores(model, text), indent=1))
