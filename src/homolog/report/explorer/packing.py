"""Files that a page loads from the file system.

A browser lets such a page load scripts and nothing else, so a data file is `explorer.put(name,
"...");` with the base64 of a zlib stream of

    length of the JSON (uint32)   the JSON   the arrays of unsigned numbers, one after the other

little-endian, where an array stands in the JSON as {"u8", "u16" or "u32": [first byte, numbers]}.
The manifest alone, which the page reads before anything else, is plain JSON.

A column of numbers is quantised to 16 bits; with codes c of 0 to 65534, and 65535 for undefined,

    value = lo + (hi - lo) c / 65534          on a linear scale
    value = exp(lo + (hi - lo) (c - 1) / 65533), and 0 for c = 0          on a logarithmic one
"""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int, Integer, Shaped, UInt8

from homolog.record.atomic import write_text

UNDEFINED = 65535
_TYPES = {"uint8": "u8", "uint16": "u16", "uint32": "u32"}


def write_data(folder: Path, name: str, value: object) -> Path:
    """Write FOLDER/data/NAME.js, which hands `value` to the page under `name`; returns the path.

    value: of JSON, and one-dimensional arrays of uint8, uint16 or uint32.
    """
    arrays = bytearray()

    def placed(array: np.ndarray) -> dict[str, list[int]]:
        first = len(arrays)
        arrays.extend(array.astype(array.dtype.newbyteorder("<")).tobytes())
        return {_TYPES[array.dtype.name]: [first, len(array)]}

    text = _json(value, placed).encode()
    packed = zlib.compress(struct.pack("<I", len(text)) + text + arrays, 9)
    return _write_script(folder, name, f'"{base64.b64encode(packed).decode()}"')


def write_plain(folder: Path, name: str, value: object) -> Path:
    """Write FOLDER/data/NAME.js likewise, of JSON that a page has at once.

    The file has no `<`, so that no text of a run ends a script or starts a comment, whatever reads
    it.
    """
    return _write_script(folder, name, _json(value).replace("<", r"\u003c"))


def _json(value: object, default: Any = None) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"), default=default)


def _write_script(folder: Path, name: str, value: str) -> Path:
    return write_text(
        folder / "data" / f"{name}.js", f"explorer.put({json.dumps(name)},{value});\n"
    )


def smallest(numbers: Integer[np.ndarray, "n"]) -> Shaped[np.ndarray, "n"]:
    """Numbers from 0 in the smallest unsigned type."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def septets(numbers: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "bytes"]:
    """Numbers from 0 to 2^35 - 1, mostly small: seven bits to a byte, the lowest first.

    The highest bit of a byte says that the number goes on.
    """
    parts = numbers[:, None] >> np.arange(0, 35, 7)
    needed = parts > 0
    needed[:, 0] = True
    return ((parts & 127) | ((parts > 127) << 7))[needed].astype(np.uint8)


def quantised(values: Float[np.ndarray, "n"], log: bool = False) -> dict[str, Any]:
    """A column of finite or NaN numbers, not negative where `log`: lo, hi, log and codes."""
    defined = np.isfinite(values)
    shown = defined & (values > 0) if log else defined
    scaled = np.log(values, where=shown, out=np.zeros(len(values))) if log else values
    lo, hi = (float(scaled[shown].min()), float(scaled[shown].max())) if shown.any() else (0.0, 0.0)
    span, first = (hi - lo) or 1.0, int(log)
    codes = np.full(len(values), UNDEFINED, np.uint16)
    codes[defined] = 0
    codes[shown] = first + np.rint((scaled[shown] - lo) / span * (UNDEFINED - 1 - first))
    return {"lo": lo, "hi": hi, "log": log, "codes": codes}


def short(value: float | None) -> float | None:
    """The number with five digits, None for an undefined one."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def shortened(table: pl.DataFrame) -> pl.DataFrame:
    """The table with five digits of its numbers, null for the undefined and the infinite."""
    numbers = pl.selectors.float()
    finite = pl.when(numbers.is_finite()).then(numbers.cast(pl.Float64).round_sig_figs(5))
    return table.with_columns(finite.name.keep())
