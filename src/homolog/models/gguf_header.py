"""The header of a GGUF file: is it whole, before readers believe the counts in it?

A header says how many settings and tensors follow, how long each text and list is, and readers
loop over what it says: a damaged count keeps them busy for hours.  Here every count is held against
the bytes that are left, of which each counted thing takes one at least.

    "GGUF"  version u32  tensors u64  settings u64
    setting = name, type u32, value;   text = length u64, bytes
    list    = type u32, length u64, values
    tensor  = name, dimensions u32, shape u64 each, type u32, offset u64

All little-endian.  Source: the specification of GGUF in the repository of ggml, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from homolog.errors import InputError

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by the number of its type: integers, floats and truth values."""
_TEXT, _LIST = 8, 9
_MOST_DIMENSIONS = 8


class _Header:
    """A place in the bytes, which moves on; ValueError for what cannot be."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.at = content, 4

    def skip(self, n: int) -> None:
        if n > len(self.content) - self.at:
            raise ValueError(f"{n} bytes are to follow byte {self.at}")
        self.at += n

    def number(self, letter: str) -> int:
        start = self.at
        self.skip(struct.calcsize(f"<{letter}"))
        return struct.unpack_from(f"<{letter}", self.content, start)[0]

    def text(self) -> None:
        self.skip(self.number("Q"))

    def value(self, kind: int, n: int = 1) -> None:
        """`n` values of a type."""
        if kind in _SIZES:
            self.skip(n * _SIZES[kind])
            return
        if kind not in (_TEXT, _LIST):
            raise ValueError(f"byte {self.at} follows a value of the unknown type {kind}")
        if n > len(self.content) - self.at:
            raise ValueError(f"{n} values are to follow byte {self.at}")
        for _ in range(n):
            if kind == _TEXT:
                self.text()
            else:
                self.value(self.number("I"), self.number("Q"))

    def tensor(self) -> None:
        self.text()
        dimensions = self.number("I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"a tensor before byte {self.at} has {dimensions} dimensions")
        self.skip(8 * dimensions + 4 + 8)


def require_header(path: Path) -> None:
    """InputError where the header of a GGUF file tells of more than the file holds."""
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            header = _Header(content)
            header.number("I")
            n_tensors, n_settings = header.number("Q"), header.number("Q")
            for _ in range(n_settings):
                header.text()
                header.value(header.number("I"))
            for _ in range(n_tensors):
                header.tensor()
    except (ValueError, RecursionError) as error:
        requirement = f"it is cut short or damaged: of {path.stat().st_size} bytes, {error}"
        raise InputError("model", str(path), requirement, "Fetch it again.") from None
