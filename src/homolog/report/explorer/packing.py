"""Files that a page loads from the file system.

A browser lets such a page load scripts and nothing else, so a data file is `explorer.put(name,
value);`, where value is JSON and has numbers as base64 of little-endian arrays.  A column of
numbers is quantised to 16 bits; with codes c of 0 to 65534, and 65535 for undefined,

    value = lo + (hi - lo) c / 65534          on a linear scale
    value = exp(lo + (hi - lo) (c - 1) / 65533), and 0 for c = 0          on a logarithmic one
"""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Shaped

from homolog.record.atomic import write_text

UNDEFINED = 65535
_TYPES = {"uint8": "u8", "uint16": "u16", "uint32": "u32"}


def write_data(folder: Path, name: str, value: object) -> Path:
    """Write FOLDER/data/NAME.js, which hands `value` to the page under `name`; returns the path."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return write_script(folder, name, text)


def write_script(folder: Path, name: str, value: str) -> Path:
    """Write FOLDER/data/NAME.js for a value that is JSON in ASCII already.

    The file has no `<`, so that no text of a corpus ends a script or starts a comment, whatever
    reads it.
    """
    text = value.replace("<", r"\u003c")
    return write_text(folder / "data" / f"{name}.js", f"explorer.put({json.dumps(name)},{text});\n")


def packed(numbers: Shaped[np.ndarray, "..."]) -> dict[str, str]:
    """An array of uint8, uint16 or uint32 as its type and base64."""
    little = np.ascontiguousarray(numbers).astype(numbers.dtype.newbyteorder("<"))
    return {
        "type": _TYPES[numbers.dtype.name],
        "codes": base64.b64encode(little.tobytes()).decode(),
    }


def smallest(numbers: Shaped[np.ndarray, "n"], bound: int) -> Shaped[np.ndarray, "n"]:
    """Numbers of 0 to bound - 1 in the smallest unsigned type."""
    return numbers.astype(np.uint8 if bound <= 2**8 else np.uint16 if bound <= 2**16 else np.uint32)


def quantised(values: Float[np.ndarray, "n"], log: bool = False) -> dict[str, Any]:
    """A column of finite or NaN numbers, not negative where `log`: lo, hi, log and packed codes."""
    defined = np.isfinite(values)
    shown = defined & (values > 0) if log else defined
    scaled = np.log(values, where=shown, out=np.zeros(len(values))) if log else values
    lo, hi = (float(scaled[shown].min()), float(scaled[shown].max())) if shown.any() else (0.0, 0.0)
    span, first = (hi - lo) or 1.0, int(log)
    codes = np.full(len(values), UNDEFINED, np.uint16)
    codes[defined] = 0
    codes[shown] = first + np.rint((scaled[shown] - lo) / span * (UNDEFINED - 1 - first))
    return {"lo": lo, "hi": hi, "log": log, **packed(codes)}


def short(value: float | None) -> float | None:
    """The number with five digits, None for an undefined one."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def shortened(table: pl.DataFrame) -> pl.DataFrame:
    """The table with five digits of its numbers, null for the undefined and the infinite."""
    numbers = pl.selectors.float()
    finite = pl.when(numbers.is_finite()).then(numbers.cast(pl.Float64).round_sig_figs(5))
    return table.with_columns(finite.name.keep())
