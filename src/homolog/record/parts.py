"""Parts: arrays in a file of their own that say what they depend on, so that long work goes on part
by part.

A part is one safetensors file.  Its metadata holds the SHA-256 of the whole file, taken with 64
zeros in the place of the digest itself, and then the key: whatever identifies all that the arrays
depend on, commonly a hash.  A part is written atomically, and the same arrays and key give the same
bytes.  `read_part` gives back the arrays or None, and None always means: make this part again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from homolog.record.atomic import write_bytes

logger = logging.getLogger("homolog")

_START = b'{"__metadata__":{"part":"'  # every part's header starts so; the digest follows
_DIGEST_AT = 8 + len(_START)
_ZEROS = "0" * 64


def write_part(path: Path | str, arrays: Mapping[str, np.ndarray], key: str) -> Path:
    """Write `arrays` (any dtype of safetensors, so numbers and bools) as one part; returns the
    path.

    Twice the size of the arrays is held in memory.  Raises InputError when space or permission is
    missing.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}
    data = bytearray(safetensors.numpy.save(contiguous, metadata={"part": _ZEROS + key}))
    assert data.startswith(_START, 8), "safetensors no longer writes the metadata first"
    data[_DIGEST_AT : _DIGEST_AT + 64] = _digest(data).encode()
    return write_bytes(path, bytes(data))


def read_part(path: Path | str, key: str) -> dict[str, np.ndarray] | None:
    """The arrays of the part at `path`; None when there is none, or one with another key, or a
    damaged one.

    A damaged part, with one byte changed anywhere or its end missing, is named in the log and
    removed.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if data[_DIGEST_AT : _DIGEST_AT + 64] != _digest(data).encode():
        logger.warning("%s is damaged: it is removed and made again", path)
        path.unlink(missing_ok=True)
        return None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    if header["__metadata__"]["part"][64:] != key:
        return None
    return safetensors.numpy.load(data)


def _digest(data: bytes | bytearray) -> str:
    """Hexadecimal SHA-256 of a file's bytes with zeros where its digest stands."""
    whole = memoryview(data)
    digest = hashlib.sha256(whole[:_DIGEST_AT])
    digest.update(_ZEROS.encode())
    digest.update(whole[_DIGEST_AT + 64 :])
    return digest.hexdigest()
