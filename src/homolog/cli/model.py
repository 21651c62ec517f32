"""`homolog model`: models of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer()


@app.callback()
def _model() -> None:
    """A group, though it has one command."""


@app.command("convert")
def model_convert(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A GGUF file, a folder, a Hub id or a zoo name."),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.")],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option("--dtype", help="Of the weights; float32 loses nothing."),
    ] = "float32",
    revision: Annotated[
        str | None, typer.Option("--revision", help="Of a Hub id.", show_default=False)
    ] = None,
) -> None:
    """Write a model as a Hugging Face folder, a GGUF file's weights dequantised."""
    import torch

    from homolog.models import load, save

    loaded = load(model, revision=revision, dtype=getattr(torch, dtype))
    typer.echo(f"Model: {save(loaded, folder)}")
    if loaded.tokenizer is None:
        typer.echo(f"It has no tokenizer: {loaded.no_tokenizer}")
