"""An .xz file that is read to its end, or not at all.

`lzma.LZMAFile` takes what follows a stream and is no other stream for the end of the file: of
several streams, the second of them damaged, the first would pass for all.
"""

from __future__ import annotations

import io
import lzma
from pathlib import Path
from typing import Any

_BLOCK = 1 << 16


class WholeXz(io.RawIOBase):
    """The streams of a file one after the other; lzma.LZMAError or EOFError where one is broken."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            given = b""
            if self._stream.eof:
                if not (given := self._after_stream()):
                    return 0
                self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
            elif self._stream.needs_input and not (given := self._file.read(_BLOCK)):
                raise EOFError("it ends within a stream")
            data = self._stream.decompress(given, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _after_stream(self) -> bytes:
        """What comes after a stream and the zeros that may follow it."""
        given = self._stream.unused_data.lstrip(b"\0")
        while not given and (block := self._file.read(_BLOCK)):
            given = block.lstrip(b"\0")
        return given
