"""Random damage to files, as disks, transfers and people do it; `--damages N` says how many a test
tries.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

OTHER_CONTENTS = (
    b"",
    b"{",
    b"null",
    b"[]",
    b"3",
    b"{}",
    b'"x"',
    b"\xff\xfe\x00",
    bytes(64),
    b"[" * 100_000,
)


def damage(files: Sequence[Path], rng: random.Random) -> str:
    """Do one thing to one of the files, or to two; returns in words what."""
    path = rng.choice(files)
    return f"{path.name}: {rng.choice(KINDS)(path, files, rng)}"


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def with_header(path: Path, change: Callable[[dict[str, Any]], str]) -> str:
    """Change the header of a safetensors file, which stays one that can be parsed; returns what
    `change` says.
    """
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    said = change(header)
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + size :])
    return said


def truncated(path: Path, _files: Sequence[Path], rng: random.Random) -> str:
    size = path.stat().st_size
    kept = rng.randrange(size) if size else 0
    with path.open("r+b") as file:
        file.truncate(kept)
    return f"{kept} of {size} bytes are left"


def flipped(path: Path, _files: Sequence[Path], rng: random.Random) -> str:
    """Half of the time near the beginning, where a file's header stands."""
    data = bytearray(path.read_bytes())
    end = min(len(data), rng.choice((400, len(data))))
    places = [rng.randrange(end) for _ in range(rng.choice((1, 1, 8)))] if data else []
    for place in places:
        data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"a bit is flipped at {places}"


def replaced(path: Path, _files: Sequence[Path], rng: random.Random) -> str:
    contents = rng.choice(OTHER_CONTENTS)
    path.write_bytes(contents)
    return f"it holds {contents[:20]!r}"


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
    truncated,
    flipped,
    flipped,
    replaced,
    lengthened,
    deleted,
    swapped,
    made_a_folder,
)


def put_back(folder: Path, whole: Path) -> Path:
    """The folder as it was: a copy of `whole`."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(whole, folder))


def number_of(config: pytest.Config) -> int:
    """How many damages of a kind are tried."""
    return int(config.getoption("--damages"))
