"""The recipes that ship, and the bytes of any other.  Imports nothing heavy, so that help can."""

from __future__ import annotations

from pathlib import Path

from homolog.errors import InputError

FOLDER = Path(__file__).parent / "recipe" / "builtin"


def built_in_recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def recipe_bytes(ref: str | Path) -> bytes:
    """The TOML of a built-in recipe by name, or of a file.  InputError where there is none."""
    built_in = built_in_recipes()
    if str(ref) in built_in:
        if Path(ref).is_file():
            raise InputError(
                "recipe",
                str(ref),
                f"both a built-in recipe and {Path(ref).absolute()} have that name",
                f"Write ./{ref} for the file, or give the command in another folder.",
            )
        return (FOLDER / f"{ref}.toml").read_bytes()
    if not Path(ref).is_file():
        requirement = "it must be a TOML file or the name of a built-in recipe"
        raise InputError("recipe", str(ref), requirement, f"Built in: {', '.join(built_in)}.")
    return Path(ref).read_bytes()
