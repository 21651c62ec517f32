"""Prepared columns as files: a layer that meets many others is prepared once per run.

A layer has two files, one for each order of its sparse entries: `by_column` is what the first side
of `max_pearson` reads on the CPU, `packed` what the second does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from homolog.matching.columns import Columns, Packed, SparseEntries, StoredEntries
from homolog.record.parts import read_part, write_part

Order = Literal["by_column", "packed"]
ORDERS: tuple[Order, ...] = ("by_column", "packed")
_COMMON = ("order", "mean", "inverse_sd", "dense")


def store_columns(columns: Columns, folder: Path, key: str) -> None:
    """Write both files.  key: identifies what the columns were prepared from."""
    common = {"shape": np.array([columns.n_tokens, columns.n_features])}
    common |= {name: getattr(columns, name) for name in _COMMON}
    start, token, value = columns.by_column
    by_column = {"start": start, "token": token, "value": value}
    write_part(folder / "by_column.safetensors", common | by_column, key)
    packed = columns.packed
    by_token = {
        "start": packed.start,
        "length": packed.length,
        # half of the words are column numbers, some of which would read as NaN
        "words": packed.values.view(np.uint32),
        "per_word": np.array(packed.per_word),
    }
    write_part(folder / "packed.safetensors", common | by_token, key)


def stored_columns(folder: Path, key: str, order: Order) -> Columns | None:
    """The columns with one order of entries.

    None when its file is missing, damaged or of another key.
    """
    arrays = read_part(folder / f"{order}.safetensors", key)
    if arrays is None:
        return None
    if order == "by_column":
        by_column = SparseEntries(arrays["start"], arrays["token"], arrays["value"])
        entries = StoredEntries(by_column=by_column)
    else:
        words = arrays["words"].copy()  # numpy's own memory has huge pages
        per_word = int(arrays["per_word"])
        numbers = words.view(np.uint16 if per_word == 2 else np.uint32)
        start, length = arrays["start"], arrays["length"]
        entries = StoredEntries(
            packed=Packed(start, length, words.view(np.float32), numbers, per_word)
        )
    n_tokens, n_features = (int(size) for size in arrays["shape"])
    common = {name: arrays[name] for name in _COMMON}
    return Columns(n_tokens=n_tokens, n_features=n_features, entries=entries, **common)
