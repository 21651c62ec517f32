"""What a feature's best partner does on its examples, and it on the partner's: data/overlay/.

The features of a layer stand `CHUNK` to a file, as their details do, by number; of each, for each
other model, the examples of either as

    [rank, 1 for an example of the partner, place, activation, place, activation, ...]

with the places of the example, from its first token, at which the other of the two fires.  Text and
own activations are in data/features/ (details.py), where `rank` counts the top examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from homolog.report.explorer.details import CHUNK
from homolog.report.explorer.packing import write_data

DIGITS = 3


def write_overlays(
    folder: Path, place: str, n_features: int, overlays: Mapping[int, pl.DataFrame]
) -> None:
    """Write data/overlay/PLACE-CHUNK.js for one layer.

    `place`: "MODEL-LAYER"; `overlays`, by number of the other model: as the table `overlay`.
    """
    chunks: list[dict[str, Any]] = [{} for _ in range(0, n_features, CHUNK)]
    for target, table in overlays.items():
        for feature, of_partner, rank, at, values in _where_it_fires(table).iter_rows():
            fires = [number for pair in zip(at, values, strict=True) for number in pair]
            examples = chunks[feature // CHUNK].setdefault(str(feature), {})
            examples.setdefault(str(target), []).append([rank, int(of_partner), *fires])
    for number, chunk in enumerate(chunks):
        write_data(folder, f"overlay/{place}-{number}", chunk)


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
