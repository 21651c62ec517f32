"""Options that many commands have, and commands that are imported when they are used."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

Out = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Folder of the run; the same folder again continues it.", show_default=False
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads of a task; on Ray 1.", show_default=False),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]


def group_of(module: str, help_words: str) -> typer.Typer:
    """The group `app` of a module, which is imported when one of its commands is asked for."""

    class Group(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            self._load()
            return super().list_commands(ctx)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            self._load()
            return super().get_command(ctx, cmd_name)

        def _load(self) -> None:
            if not self.commands:
                group = typer.main.get_group(import_module(module).app)
                self.commands.update(group.commands)

    return typer.Typer(cls=Group, help=help_words, no_args_is_help=True)


def command_of(module: str) -> type[TyperCommand]:
    """The class of a command that is `app` of a module, which is imported when it is used."""

    class Command(TyperCommand):
        @property
        def real(self) -> Any:
            return typer.main.get_command(import_module(module).app)

        def make_context(self, info_name: str | None, args: list[str], **more: Any) -> Any:
            return self.real.make_context(info_name, args, **more)

        def get_params(self, ctx: Any) -> list[Any]:
            return self.real.get_params(ctx)

    return Command
