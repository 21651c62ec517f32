"""The command line: commands, and options made of tables of settings."""

from homolog.cli.commands import app, main

__all__ = ["app", "main"]
