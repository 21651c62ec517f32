"""The header of a GGUF file: is it whole, and can it be, before readers believe what it says?

A header says how many settings and tensors follow, how long each text and list is, and readers
loop over what it says: a damaged count keeps them busy for hours.  Here every count is held against
the bytes that are left, of which each counted thing takes one at least.

    "GGUF"  version u32  tensors u64  settings u64
    setting = name, type u32, value;   text = length u64, bytes
    list    = type u32, length u64, values
    tensor  = name, dimensions u32, shape u64 each, type u32, offset u64

All little-endian.  Then come the tensors, each at its offset from the next multiple of the setting
general.alignment (32), in rows of blocks: a type has so many numbers and so many bytes in a block.
The sizes of the model that the settings tell are held against these tensors.

Source: the specification of GGUF in the repository of ggml, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from homolog.errors import InputError

MOST_BLOCKS = 10_000
"""Of a model of any format: transformers makes lists so long."""
_MOST = {
    "block_count": MOST_BLOCKS,
    "embedding_length": 2**24,
    "context_length": 2**30,
    "vocab_size": 2**24,
}
"""Settings of an architecture that are whole numbers, at least 1, and at most this."""
_LETTERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
"""How a value is packed, by the number of its type: integers, floats and truth values."""
_TEXT, _LIST = 8, 9
_MOST_DIMENSIONS = 8
_ALIGNMENT = "general.alignment"
_BLOCK = re.compile(r"(?:.*\.)?blk\.(\d+)\.")


@dataclass(frozen=True)
class GgufTensor:
    """What the header says of a tensor.

    shape: as stored, the numbers of a row first.  kind: the number of its type of blocks.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def n_numbers(self) -> int:
        return prod(self.shape)

    def n_bytes(self, blocks: Mapping[int, tuple[int, int]]) -> int:
        """ValueError unless its rows are whole blocks of a type that `blocks` knows."""
        if self.kind not in blocks:
            raise ValueError(f"its tensor {self.name} is of the unknown type {self.kind}")
        n, size = blocks[self.kind]
        if not self.shape or not self.n_numbers or self.shape[0] % n:
            in_rows = f"and its type has rows of blocks of {n}"
            raise ValueError(f"its tensor {self.name} has the shape {self.shape}, {in_rows}")
        return self.n_numbers // n * size


@dataclass(frozen=True)
class GgufHeader:
    """Settings that are one value each, tensors, and the byte where the tensors' numbers begin."""

    settings: Mapping[str, int | float | bool | str]
    tensors: tuple[GgufTensor, ...]
    start: int

    def of_architecture(self, name: str) -> int | float | bool | str | None:
        return self.settings.get(f"{self.settings.get('general.architecture')}.{name}")


class _Bytes:
    """A place in the bytes, which moves on; ValueError for what cannot be."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.at = content, 4

    def skip(self, n: int) -> None:
        if n > len(self.content) - self.at:
            raise ValueError(f"of {len(self.content)} bytes, {n} are to follow byte {self.at}")
        self.at += n

    def number(self, letter: str) -> Any:
        start = self.at
        self.skip(struct.calcsize(f"<{letter}"))
        return struct.unpack_from(f"<{letter}", self.content, start)[0]

    def text(self) -> str:
        n = self.number("Q")
        self.skip(n)
        return self.content[self.at - n : self.at].decode()

    def value(self, kind: int) -> int | float | bool | str | None:
        """A value of a type; None for a list, which is passed over."""
        if kind in _LETTERS:
            return self.number(_LETTERS[kind])
        if kind == _TEXT:
            return self.text()
        self.values(kind, 1)
        return None

    def values(self, kind: int, n: int) -> None:
        """Pass over `n` values of a type."""
        if kind in _LETTERS:
            self.skip(n * struct.calcsize(f"<{_LETTERS[kind]}"))
            return
        if kind not in (_TEXT, _LIST):
            raise ValueError(f"byte {self.at} follows a value of the unknown type {kind}")
        if n > len(self.content) - self.at:
            left = f"of {len(self.content)} bytes"
            raise ValueError(f"{left}, those of {n} values are to follow byte {self.at}")
        for _ in range(n):
            if kind == _TEXT:
                self.skip(self.number("Q"))
            else:
                self.values(self.number("I"), self.number("Q"))

    def tensor(self) -> GgufTensor:
        name, dimensions = self.text(), self.number("I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"a tensor before byte {self.at} has {dimensions} dimensions")
        shape = tuple(self.number("Q") for _ in range(dimensions))
        return GgufTensor(name, shape, self.number("I"), self.number("Q"))


def read_header(path: Path) -> GgufHeader:
    """Settings and tensors.  InputError where they tell of more than the file can hold."""
    with (
        _damage_named(path),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        there = _Bytes(content)
        there.number("I")
        n_tensors, n_settings = there.number("Q"), there.number("Q")
        settings = {}
        for _ in range(n_settings):
            name, kind = there.text(), there.number("I")
            value = there.value(kind)
            if value is not None:
                settings[name] = value
        tensors = tuple(there.tensor() for _ in range(n_tensors))
        alignment = settings.get(_ALIGNMENT, 32)
        if not isinstance(alignment, int) or not 0 < alignment <= len(content):
            raise ValueError(f"its {_ALIGNMENT} is {alignment!r}")
        header = GgufHeader(settings, tensors, -(-there.at // alignment) * alignment)
        _require_sizes(header)
        return header


def _require_sizes(header: GgufHeader) -> None:
    """ValueError for sizes of a model that none has, or that are not those of its tensors."""
    for name, most in _MOST.items():
        size = header.of_architecture(name)
        if size is not None and (not isinstance(size, int) or not 1 <= size <= most):
            raise ValueError(f"its {name} is {size!r}; it can be a whole number from 1 to {most}")
    counted = header.of_architecture("block_count")
    blocks = {found[1] for one in header.tensors if (found := _BLOCK.match(one.name))}
    if isinstance(counted, int) and counted > len(blocks):
        raise ValueError(f"its block_count is {counted}, and its tensors are of {len(blocks)}")
    width = header.of_architecture("embedding_length")
    rows = {one.name: one.shape[:1] for one in header.tensors}.get("token_embd.weight")
    if width is not None and rows is not None and rows != (width,):
        stored = f"{rows[0] if rows else 0} numbers for each token"
        raise ValueError(f"its embedding_length is {width}, and its tensors hold {stored}")


def require_tensors(path: Path, header: GgufHeader, blocks: Mapping[int, tuple[int, int]]) -> None:
    """InputError unless every tensor lies in the file, and in no other.

    blocks: how many numbers and bytes are in a block, by the number of its type.
    """
    size = path.stat().st_size
    with _damage_named(path):
        places = []
        for tensor in header.tensors:
            start = header.start + tensor.offset
            end = start + tensor.n_bytes(blocks)
            if end > size:
                place = f"is to lie at bytes {start} to {end}"
                raise ValueError(f"of {size} bytes, its tensor {tensor.name} {place}")
            places.append((start, end, tensor.name))
        for (_, end, name), (start, _, other) in pairwise(sorted(places)):
            if start < end:
                raise ValueError(f"its tensors {name} and {other} lie one in the other")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """A ValueError becomes the InputError of a damaged file."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        requirement = f"it is cut short or damaged: {error}"
        raise InputError("model", str(path), requirement, "Fetch it again.") from None
