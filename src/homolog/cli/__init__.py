"""The command line: `app.py` has the commands, `options.py` makes options of tables of settings."""

from homolog.cli.app import app, main

__all__ = ["app", "main"]
