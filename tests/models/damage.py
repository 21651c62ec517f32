"""Seeded damage to a saved model's folder: what disks, downloads and hands do to files."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = ("F16", "BF16", "F32", "F64", "I32", "I64", "U8", "BOOL", "F8_E4M3", "X9")
Damage = Callable[[Path, np.random.Generator], str]


def damage(folder: Path, generator: np.random.Generator) -> str:
    """Do one kind of damage, drawn at random, and say which."""
    return DAMAGES[int(generator.integers(len(DAMAGES)))](folder, generator)


def pick(folder: Path, generator: np.random.Generator, pattern: str = "*") -> Path:
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    return found[int(generator.integers(len(found)))]


def truncate(folder: Path, generator: np.random.Generator) -> str:
    path = pick(folder, generator)
    kept = int(generator.integers(path.stat().st_size))
    path.write_bytes(path.read_bytes()[:kept])
    return f"{path.name} cut to {kept} bytes"


def flip(folder: Path, generator: np.random.Generator) -> str:
    """Random bits, half of the time near the beginning, where a file's header stands."""
    path = pick(folder, generator)
    content = bytearray(path.read_bytes())
    end = len(content) if generator.random() < 0.5 else min(len(content), 400)
    places = generator.integers(end, size=int(generator.integers(1, 9)))
    for place in places.tolist():
        content[place] ^= 1 << int(generator.integers(8))
    path.write_bytes(bytes(content))
    return f"{path.name}: bits flipped at {sorted(places.tolist())}"


def replace(folder: Path, generator: np.random.Generator) -> str:
    path, new = pick(folder, generator), ("", "{", "null", "[]", "3", "{}", '"x"')[int(generator.integers(7))]
    path.write_text(new)
    return f"{path.name} holds {new!r}"


def delete(folder: Path, generator: np.random.Generator) -> str:
    path = pick(folder, generator)
    path.unlink()
    return f"{path.name} deleted"


def swap(folder: Path, generator: np.random.Generator) -> str:
    one, other = pick(folder, generator), pick(folder, generator)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return f"{one.name} and {other.name} swapped"


def directory(folder: Path, generator: np.random.Generator) -> str:
    path = pick(folder, generator)
    path.unlink()
    path.mkdir()
    return f"{path.name} is a directory"


def number(folder: Path, generator: np.random.Generator) -> str:
    """Another number in config.json, at any depth."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    places: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            if isinstance(value, (dict, list)):
                walk(value)
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                places.append((part, key))

    walk(config)
    part, key = places[int(generator.integers(len(places)))]
    old = part[key]
    choices = [0, -1, old + 1, old - 1, old * 2, old // 2, 10**9, old + 0.5, 1e-30, 1e30, None, str(old), [old]]
    part[key] = choices[int(generator.integers(len(choices)))]
    path.write_text(json.dumps(config))
    return f"config.json: {key} is {part[key]!r}, was {old!r}"


def header(change: Callable[[dict[str, Any], str, np.random.Generator], str]) -> Damage:
    """A damage to the header of a file of weights that is a sound header otherwise."""

    def done(folder: Path, generator: np.random.Generator) -> str:
        path = pick(folder, generator, "*.safetensors")
        content = path.read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        entries = json.loads(content[8 : 8 + size])
        names = [name for name in entries if name != "__metadata__"]
        said = change(entries, names[int(generator.integers(len(names)))], generator)
        new = json.dumps(entries).encode()
        path.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + size :])
        return f"{path.name}: {said}"

    return done


def rename(entries: dict[str, Any], name: str, generator: np.random.Generator) -> str:
    new = (name + "x", "x." + name, name.replace("0", "7"), name.upper(), "")[int(generator.integers(5))]
    entries[new] = entries.pop(name)
    return f"{name} renamed {new!r}"


def redtype(entries: dict[str, Any], name: str, generator: np.random.Generator) -> str:
    entries[name]["dtype"] = DTYPES[int(generator.integers(len(DTYPES)))]
    return f"{name} is {entries[name]['dtype']}"


def reshape(entries: dict[str, Any], name: str, generator: np.random.Generator) -> str:
    shape = entries[name]["shape"]
    size = int(np.prod(shape))
    choices = [shape[::-1], [size], [1, *shape], [*shape[:-1], shape[-1] + 1], [], [0], [-1], [2**62], None]
    entries[name]["shape"] = choices[int(generator.integers(len(choices)))]
    return f"{name} has the shape {entries[name]['shape']}, had {shape}"


def forget(entries: dict[str, Any], name: str, _generator: np.random.Generator) -> str:
    del entries[name]
    return f"{name} left out"


DAMAGES: tuple[Damage, ...] = (
    truncate, flip, replace, delete, swap, directory, number, number,
    header(rename), header(redtype), header(reshape), header(forget),
)  # fmt: skip


def copied(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(folder, to))
