"""Prepared columns as files, so that a layer that meets many others is prepared once a run, not
once a meeting.

A layer has two files, one for each order of its sparse entries: `by_column` is what the first side
of `max_pearson` reads on the CPU, `packed` what the second does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from homolog.matching.columns import Columns, Packed
from homolog.record.parts import read_part, write_part

Order = Literal["by_column", "packed"]
ORDERS: tuple[Order, ...] = ("by_column", "packed")


def store_columns(columns: Columns, folder: Path, key: str) -> None:
    """Write both files.  key: identifies what the columns were prepared from."""
    shape = {"shape": np.array([columns.n_tokens, columns.n_features])}
    common = shape | {
        name: getattr(columns, name) for name in ("order", "mean", "inverse_sd", "dense")
    }
    start, token, value = columns.by_column
    write_part(
        folder / "by_column.safetensors",
        common | {"start": start, "token": token, "value": value},
        key,
    )
    packed = columns.packed
    words = packed.values.view(
        np.uint32
    )  # half of them are column numbers, some of which read as NaN
    arrays = {
        "start": packed.start,
        "length": packed.length,
        "words": words,
        "per_word": np.array(packed.per_word),
    }
    write_part(folder / "packed.safetensors", common | arrays, key)


def stored_columns(folder: Path, key: str, order: Order) -> Columns | None:
    """The columns with one order of entries, in memory; None when the file is missing, damaged or
    of another key.
    """
    arrays = read_part(folder / f"{order}.safetensors", key)
    if arrays is None:
        return None
    n_tokens, n_features = (int(size) for size in arrays["shape"])
    order_of, mean, inverse_sd, dense = (
        arrays[name] for name in ("order", "mean", "inverse_sd", "dense")
    )
    columns = Columns(n_tokens, n_features, order_of, mean, inverse_sd, dense, source=None)
    if order == "by_column":
        return columns.having(by_column=(arrays["start"], arrays["token"], arrays["value"]))
    words, per_word = (
        arrays["words"].copy(),
        int(arrays["per_word"]),
    )  # numpy's own memory has huge pages
    packed = Packed(
        arrays["start"],
        arrays["length"],
        words.view(np.float32),
        words.view(np.uint16 if per_word == 2 else np.uint32),
        per_word,
    )
    return columns.having(packed=packed)
