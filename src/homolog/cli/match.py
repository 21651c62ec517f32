"""`homolog match`: the matches and the verdict of two feature matrices in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from homolog.cli.options import options_from
from homolog.errors import InputError
from homolog.matching import MatchSettings, StandIn, read_matrix, read_numbers
from homolog.matching import match as match_matrices

app = typer.Typer(add_completion=False)


@app.command("match")
@options_from(MatchSettings)
def match(
    a: Annotated[
        Path,
        typer.Argument(metavar="A", help="Rows x features: .npz, .npy, .safetensors or .parquet."),
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="The same rows, other features.")],
    values: dict[str, Any],
    documents: Annotated[
        Path | None,
        typer.Option(
            "--documents", metavar="FILE", help="Document of each row, or where each begins."
        ),
    ] = None,
    controls: Annotated[
        list[str] | None,
        typer.Option(
            "--control",
            metavar="NAME=FILE",
            help="Features that cannot have learned the same; NAME@B=FILE stands for B alone.",
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", metavar="FILE", help="Token or condition of each row: a control."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder for the tables, or a .parquet file.")
    ] = None,
) -> None:
    """Say which features of two matrices over the same rows are homologs, without models."""
    names = (a.stem, b.stem) if a.stem != b.stem else ("a", "b")
    matches = match_matrices(
        read_matrix(a),
        read_matrix(b),
        documents=None if documents is None else read_numbers(documents),
        controls=_controls(controls or (), names),
        tokens=None if tokens is None else read_numbers(tokens),
        names=names,
        **values,
    )
    typer.echo(matches.words)
    if out is not None:
        typer.echo(f"Tables: {matches.save(out)}")


def _controls(given: Sequence[str], names: tuple[str, str]) -> dict[str, StandIn]:
    """The controls of the command line by name: NAME=FILE, or NAME@A=FILE and NAME@B=FILE."""
    sides: dict[str, str] = dict(zip(("A", "B"), names, strict=True))
    controls: dict[str, StandIn] = {}
    for text in given:
        name, _, file = text.partition("=")
        name, at, side = name.partition("@")
        if not (name and file) or (at and side not in sides):
            requirement = "it must be NAME=FILE, NAME@A=FILE or NAME@B=FILE"
            remedy = "Give for example untrained=untrained.npz."
            raise InputError("--control", text, requirement, remedy)
        if name in controls:
            requirement = "another control has that name"
            raise InputError("--control", name, requirement, "Give each its own.")
        controls[name] = StandIn(read_matrix(file), sides.get(side))
    return controls
