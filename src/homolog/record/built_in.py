"""The recipes that ship with the package: names and places.  Imports nothing, so that help can."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "recipe" / "builtin"


def built_in_recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))
