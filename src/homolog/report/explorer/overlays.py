"""What a feature's best partner does on its examples, and it on the partner's: data/overlay/.

The features of a layer stand `CHUNK` to a file, as their details do; of each other model there are
columns of examples, those of a feature one after the other:

    count    of each feature, how many examples
    rank     among the top examples, by which it is found in data/features/ (details.py)
    partner  1 for an example of the partner, 0 for one of the feature
    fires    at how many places of the example the other of the two fires
    at       these places, from the first token of the example
    values   the activations there
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from homolog.report.explorer.details import CHUNK
from homolog.report.explorer.packing import smallest, write_data

DIGITS = 3


def write_overlays(
    folder: Path, place: str, n_features: int, overlays: Mapping[int, pl.DataFrame]
) -> None:
    """Write data/overlay/PLACE-CHUNK.js for one layer.

    `place`: "MODEL-LAYER"; `overlays`, by number of the other model: as the table `overlay`.
    """
    fires = {str(target): _where_it_fires(table) for target, table in overlays.items()}
    for first in range(0, n_features, CHUNK):
        within = pl.col("feature").is_between(first, first + CHUNK - 1)
        parts = {target: table.filter(within) for target, table in fires.items()}
        chunk = {target: _columns(part, first) for target, part in parts.items() if len(part)}
        write_data(folder, f"overlay/{place}-{first // CHUNK}", chunk)


def _columns(table: pl.DataFrame, first: int) -> dict[str, Any]:
    """The columns of a chunk whose first feature is `first`."""
    whole = {
        "count": np.bincount(table["feature"].to_numpy() - first),
        "rank": table["rank"].to_numpy(),
        "partner": table["of_partner"].to_numpy().astype(np.int64),
        "fires": table["at"].list.len().to_numpy(),
        "at": table["at"].explode().drop_nulls().to_numpy(),
    }
    values = table["values"].explode().drop_nulls().to_list()
    return {name: smallest(column) for name, column in whole.items()} | {"values": values}


def _where_it_fires(table: pl.DataFrame) -> pl.DataFrame:
    """The rows with the places where the other fires, and its activations there."""
    values = pl.col("values").cast(pl.List(pl.Float64))
    numbered = table.with_row_index("_row").with_columns(
        values, at=pl.int_ranges(pl.col("values").list.len())
    )
    fires = numbered.select("_row", "at", "values").explode("at", "values")
    fires = fires.filter(pl.col("values") > 0).with_columns(pl.col("values").round_sig_figs(DIGITS))
    of_rows = fires.group_by("_row", maintain_order=True).agg("at", "values")
    joined = numbered.drop("at", "values").join(of_rows, "_row", how="left", maintain_order="left")
    empty = pl.lit([], pl.List(pl.Int64)), pl.lit([], pl.List(pl.Float64))
    return joined.sort("feature", "of_partner", "rank").select(
        "feature",
        "of_partner",
        "rank",
        pl.col("at").fill_null(empty[0]),
        pl.col("values").fill_null(empty[1]),
    )
