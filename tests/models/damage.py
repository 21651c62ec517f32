"""Random damage to a saved model's folder: to its files, and to what they say of the model."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tests.damage import damage as damage_file
from tests.damage import files_in, with_header

DTYPES = ("F16", "BF16", "F32", "F64", "I32", "I64", "U8", "BOOL", "F8_E4M3", "X9")
Damage = Callable[[Path, random.Random], str]


def damage(folder: Path, rng: random.Random) -> str:
    """Do one kind of damage, drawn at random, and say which."""
    return rng.choice(DAMAGES)(folder, rng)


def number(folder: Path, rng: random.Random) -> str:
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
    part, key = rng.choice(places)
    old = part[key]
    choices = [
        0,
        -1,
        old + 1,
        old - 1,
        old * 2,
        old // 2,
        10**9,
        old + 0.5,
        1e-30,
        1e30,
        None,
        str(old),
        [old],
    ]
    part[key] = rng.choice(choices)
    path.write_text(json.dumps(config))
    return f"config.json: {key} is {part[key]!r}, was {old!r}"


def header(change: Callable[[dict[str, Any], str, random.Random], str]) -> Damage:
    """A damage to the header of a file of weights that is a sound header otherwise."""

    def done(folder: Path, rng: random.Random) -> str:
        path = rng.choice(sorted(folder.glob("*.safetensors")))

        def one(entries: dict[str, Any]) -> str:
            return change(
                entries, rng.choice([name for name in entries if name != "__metadata__"]), rng
            )

        return f"{path.name}: {with_header(path, one)}"

    return done


def rename(entries: dict[str, Any], name: str, rng: random.Random) -> str:
    new = rng.choice((name + "x", "x." + name, name.replace("0", "7"), name.upper(), ""))
    entries[new] = entries.pop(name)
    return f"{name} renamed {new!r}"


def redtype(entries: dict[str, Any], name: str, rng: random.Random) -> str:
    entries[name]["dtype"] = rng.choice(DTYPES)
    return f"{name} is {entries[name]['dtype']}"


def reshape(entries: dict[str, Any], name: str, rng: random.Random) -> str:
    shape = entries[name]["shape"]
    size = int(np.prod(shape))
    choices = [
        shape[::-1],
        [size],
        [1, *shape],
        [*shape[:-1], shape[-1] + 1],
        [],
        [0],
        [-1],
        [2**62],
        None,
    ]
    entries[name]["shape"] = rng.choice(choices)
    return f"{name} has the shape {entries[name]['shape']}, had {shape}"


def forget(entries: dict[str, Any], name: str, _rng: random.Random) -> str:
    del entries[name]
    return f"{name} left out"


DAMAGES: tuple[Damage, ...] = (
    *[lambda folder, rng: damage_file(files_in(folder), rng)] * 6,
    number,
    number,
    header(rename),
    header(redtype),
    header(reshape),
    header(forget),
)
