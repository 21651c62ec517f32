"""A run that is complete answers at once: OUT/.finished.json holds what was asked, what was said at
the end, and the state of every file of the run, of its inputs and of this package.

Where any of them was touched since, nothing is known, and the run finds out by checksums.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from homolog.record.atomic import read_json, sha256_bytes, write_json

NAME = ".finished.json"
PACKAGE = Path(__file__).parents[1]
_NOT_OF_RUN = (NAME, ".lock")


def asked(recipe: bytes, options: Mapping[str, Any]) -> str:
    """Identifies a recipe (the bytes of its file) and the options that change it."""
    return sha256_bytes(recipe, *(f"{key} {value!r}" for key, value in sorted(options.items())))


def remember(out: Path, asked: str, lines: Iterable[str], inputs: Iterable[Path]) -> None:
    """That the run in `out` is complete, and said `lines` when it was `asked` for."""
    read = sorted({os.path.abspath(path) for path in inputs})
    value = {"asked": asked, "lines": list(lines), "inputs": read, "state": _state(out, read)}
    write_json(out / NAME, value)


def remembered(out: Path, asked: str) -> list[str] | None:
    """What the complete run in `out` said; None where it is not known to be complete."""
    try:
        known = read_json(out / NAME)
        whole = known["asked"] == asked and known["state"] == _state(out, known["inputs"])
        return known["lines"] if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _state(out: Path, inputs: Iterable[str]) -> str:
    """SHA-256 of names, sizes, times and inodes of all these files."""
    files = (*_below(out.absolute(), _NOT_OF_RUN), *inputs, *_below(PACKAGE, ()))
    stats = ((name, os.stat(name)) for name in files)
    return sha256_bytes(
        *(f"{n} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}" for n, s in stats)
    )


def _below(folder: Path, left_out: Iterable[str]) -> Iterator[str]:
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        yield from (os.path.join(path, name) for name in sorted(files) if name not in left_out)
