"""Damaged folders of dictionaries: what comes back is a dictionary or one InputError.

Bytes of a tensor that were flipped cannot be told from others unless a digest was kept: our own
layout keeps one and refuses; of the other layouts such a dictionary is read, and `recheck` finds it
where the file carries a quality.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import damage
from tests.dictionaries.conftest import WRITTEN, random_dictionary
from tests.dictionaries.helpers import D_MODEL

from homolog.dictionaries import Quality, SparseAutoencoder, load, save, saved_quality
from homolog.dictionaries.formats.registry import FORMATS
from homolog.errors import InputError

X = torch.randn(20, D_MODEL, generator=torch.Generator().manual_seed(0))
QUALITY = Quality(100, 0.5, 3.0, 0.1, (0.0,) * 7)
WRONG: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    41,
    10**6,
    10**30,
    0.5,
    -2.5,
    1e308,
    math.nan,
    math.inf,
    "",
    "x",
    "homolog",
    [],
    [1],
    {},
    {"a": 1},
    [[]],
    "\ud800",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A folder of every format and kind."""
    folder, made = tmp_path_factory.mktemp("whole"), []
    for name, kinds in WRITTEN.items():
        for kind in kinds:
            made.append(folder / name / kind)
            save(random_dictionary(kind), made[-1], QUALITY, format=name)
    return made


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths to everything inside a JSON value, and to itself."""
    found = [path]
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inside in items:
        found += places(inside, (*path, key))
    return found


def changed(value: Any, rng: random.Random) -> Any:
    """The JSON value with something in it replaced or removed."""
    path = rng.choice(places(value))
    if not path:
        return rng.choice(WRONG)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    if rng.random() < 0.2:
        del holder[path[-1]]
    else:
        holder[path[-1]] = rng.choice(WRONG)
    return value


def break_something(folder: Path, others: list[Path], rng: random.Random) -> str:
    """Break a file as any may break, or what a file of a dictionary says; returns in words what."""
    files = damage.files_in(folder)
    how = rng.choice(["any", "any", "swap", "inside", "inside", "tensors"])
    file = rng.choice(files)
    if how == "any":
        return damage.damage(files, rng)
    if how == "swap":
        shutil.copy(rng.choice(damage.files_in(rng.choice(others))), file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(changed(json.loads(file.read_bytes()), rng)))
    elif file.suffix == ".safetensors" and how == "inside":
        damage.with_header(file, lambda header: str(changed(header, rng)))
    else:
        other_tensors(file, rng)
    return f"{how} {file.name}"


def other_tensors(file: Path, rng: random.Random) -> None:
    """Another value, shape or type of one tensor, in a file that is sound otherwise."""
    pickled = file.suffix == ".pt"
    tensors = torch.load(file, weights_only=True) if pickled else load_file(file)
    name = rng.choice(sorted(tensors))
    found = tensors[name]
    tensors[name] = (
        rng.choice(
            [
                found * math.nan,
                found * 1e38 * 1e38,
                found[..., :1] if found.ndim else found[None],
                found.to(torch.int8),
                found.bool(),
                found.double() * 1e300,
                found.half(),
                found.to(torch.complex64),
                found[None],
                torch.zeros(0),
                torch.tensor(3),
                -found.float(),
                found * 1e30,
            ]
        )
        .clone()
        .contiguous()
    )
    if pickled:
        torch.save(
            rng.choice([tensors, tensors, list(tensors.values()), {0: tensors}, found]), file
        )
    else:
        save_file(tensors, file)


def usable(sae: SparseAutoencoder, folder: Path) -> None:
    """What was read can be used as a whole dictionary can: encoded with, written, read again."""
    try:
        features = sae.encode_sparse(X)
    except InputError as error:  # finite weights, of 1e30, whose products are not
        assert "too large" in str(error)
    else:
        assert (
            features.shape == (len(X), sae.d_sae)
            and torch.isfinite(torch.from_numpy(features.data)).all()
        )
    carried = saved_quality(sae)
    assert carried is None or isinstance(carried.explained_variance, float)
    layer = sae.metadata.get("layer")
    assert layer is None or (type(layer) is int and layer >= 0)
    save(sae, folder, carried)
    assert load(folder).d_sae == sae.d_sae


def survives(whole: list[Path], seed: int, tmp_path: Path) -> bool:
    """Whether the damaged folder was still read; fails on any error but InputError."""
    rng = random.Random(seed)
    source = rng.choice(whole)
    folder = shutil.copytree(source, tmp_path / str(seed))
    what = break_something(folder, whole, rng)
    try:
        try:
            sae = load(folder)
        except InputError as error:
            assert len(str(error)) < 2000
            return False
        usable(sae, tmp_path / f"{seed}-again")
    except Exception as error:
        error.add_note(f"seed {seed}: {source.parent.name}/{source.name}, {what}")
        raise
    return True


@pytest.mark.damage
def test_each_damage_gives_a_dictionary_or_one_message(
    whole: list[Path], tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    n = damage.number_of(pytestconfig)
    read = sum(survives(whole, seed, tmp_path) for seed in range(n))
    assert n / 20 < read < 0.6 * n  # some damage is harmless, most is not


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_our_own_layout_notices_every_flipped_bit_of_a_weight(
    bit: int, whole: list[Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(whole[0], tmp_path / "copy")
    file = folder / "sae_weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1 - 5 * bit] ^= 1 << bit
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"its SHA-256 must be the one in cfg\.json"):
        load(folder)


def test_the_formats_here_are_all_there_are() -> None:
    assert set(WRITTEN) == set(FORMATS) - {"sae_lens"}
