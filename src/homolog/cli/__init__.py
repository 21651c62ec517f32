"""The command line: `commands.py` has the commands, `options.py` makes options of tables of settings."""

from homolog.cli.commands import app, main

__all__ = ["app", "main"]
