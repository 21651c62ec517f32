"""Random damage to files, as disks, transfers and people do it; `--damages N` says how many a test tries."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

OTHER_CONTENTS = (b"", b"{", b"null", b"[]", b"3", b"\xff\xfe\x00", b"{}", b"true")


def damage(files: Sequence[Path], rng: random.Random) -> str:
    """Do one thing to one of the files, or to two; returns in words what."""
    path = rng.choice(files)
    return f"{path.name}: {rng.choice(KINDS)(path, files, rng)}"


def truncated(path: Path, _files: Sequence[Path], rng: random.Random) -> str:
    size = path.stat().st_size
    kept = rng.randrange(size) if size else 0
    with path.open("r+b") as file:
        file.truncate(kept)
    return f"{kept} of {size} bytes are left"


def flipped(path: Path, _files: Sequence[Path], rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    places = [rng.randrange(len(data)) for _ in range(rng.choice((1, 1, 8)))] if data else []
    for place in places:
        data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"a bit is flipped at {places}"


def replaced(path: Path, _files: Sequence[Path], rng: random.Random) -> str:
    contents = rng.choice(OTHER_CONTENTS)
    path.write_bytes(contents)
    return f"it holds {contents!r}"


def lengthened(path: Path, _files: Sequence[Path], rng: random.Random) -> str:
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.randrange(1, 64)))
    return "bytes were added at its end"


def deleted(path: Path, _files: Sequence[Path], _rng: random.Random) -> str:
    path.unlink()
    return "it is gone"


def swapped(path: Path, files: Sequence[Path], rng: random.Random) -> str:
    other = rng.choice(files)
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)
    return f"it and {other} changed places"


def made_a_folder(path: Path, _files: Sequence[Path], _rng: random.Random) -> str:
    path.unlink()
    path.mkdir()
    return "it is a folder"


KINDS: tuple[Callable[[Path, Sequence[Path], random.Random], str], ...] = (
    truncated, flipped, flipped, replaced, lengthened, deleted, swapped, made_a_folder,
)  # fmt: skip


def put_back(folder: Path, whole: Path) -> None:
    """The folder as it was: a copy of `whole`."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)


def number_of(config: pytest.Config) -> int:
    """How many damages of a kind are tried."""
    return int(config.getoption("--damages"))
