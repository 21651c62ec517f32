"""What the page of a feature shows: numbers, matches, tokens, neighbours and contexts.

The features of a layer stand `CHUNK` to a file.  Their contexts are columns, all those of a feature
one after the other; what tokens they show stands on sheets (sheets.py), and only the activations on
these stand here: shares of the feature's largest shown one, in 255 steps, of which an active token
has at least one.  The activation at the peak of a context is counted in hundredths, as it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, UInt8

from homolog.report.explorer.columns import OF_FEATURE
from homolog.report.explorer.contexts import Contexts
from homolog.report.explorer.packing import short, shortened, smallest, write_data
from homolog.report.explorer.witnesses import COLUMN

CHUNK = 128
NUMBERS = ("n_active", "mean_active", "max", *(column.name for column in OF_FEATURE))
TEXTS = ("explanation", "promoted", "suppressed", "top_tokens")
MATCH_NUMBERS = ("r", "excess", "null_r", "threshold", "q")
MATCH_CONTROLS = ("control_r", "token_r2", "untrained_r", "beyond", "bar", "rival_r", "documents")
MATCH_CLASSES = ("homolog", "mutual", "stable")
MATCH = (*MATCH_NUMBERS, *MATCH_CONTROLS, "other_seed_r", *MATCH_CLASSES)
PARTNERS = {"best": "r", "runner_up": "runner_up_r", "partner": "partner_r"}


def write_details(
    folder: Path,
    place: str,
    features: pl.DataFrame,
    matches: Mapping[int, pl.DataFrame],
    contexts: Contexts | None,
    scatters: Mapping[int, pl.DataFrame],
) -> None:
    """Write data/features/PLACE-CHUNK.js for one layer.

    `place`: "MODEL-LAYER"; `features`: the rows of the layer by feature; `matches`, by number of
    the other model: as many rows; `scatters`: likewise, with feature, scatter_x and scatter_y.
    """
    records = _records(features, NUMBERS, TEXTS)
    if {"near_feature", "near_cosine"} <= set(features.columns):
        neighbours = features.select("near_feature", "near_cosine").iter_rows()
        for record, (near, cosines) in zip(records, neighbours, strict=True):
            if near:
                record["near"] = [[i, short(r)] for i, r in zip(near, cosines, strict=True)]
    for target, table in matches.items():
        for record, match in zip(records, _matches(table), strict=True):
            if match:
                record.setdefault("matches", {})[str(target)] = match
    for target, table in scatters.items():
        for feature, x, y in table.select("feature", "scatter_x", "scatter_y").iter_rows():
            if x:
                records[feature].setdefault("scatter", {})[str(target)] = _points(x, y)
    for first in range(0, len(records), CHUNK):
        chunk: dict[str, Any] = {"features": records[first : first + CHUNK]}
        if contexts is not None:
            chunk["contexts"] = _contexts(contexts, first, chunk["features"])
        write_data(folder, f"features/{place}-{first // CHUNK}", chunk)


def _contexts(contexts: Contexts, first: int, records: list[dict[str, Any]]) -> dict[str, Any]:
    """The contexts of a chunk; puts the largest activation of each feature into its record."""
    owner = contexts.table["feature"].to_numpy()
    begin, end = (int(i) for i in np.searchsorted(owner, (first, first + len(records))))
    part = slice(contexts.ends[begin], contexts.ends[end])
    feature = contexts.feature[part] - first
    largest = np.zeros(len(records), np.float32)
    np.maximum.at(largest, feature, contexts.values[part])
    count = np.bincount(owner[begin:end] - first, minlength=len(records))
    for record, n, most in zip(records, count.tolist(), largest.tolist(), strict=True):
        if n:
            record["scale"] = short(most)
    table = contexts.table[begin:end]
    peak = pl.col("position") - pl.col("start")
    hundredths = (100 * pl.col("value").cast(pl.Float64)).round().cast(pl.Int64)
    whole = table.select("sheet", "start", "length", peak=peak, hundredths=hundredths)
    return {
        "count": smallest(count),
        "quantile": shortened(table)["quantile"].to_list(),
        **{name: smallest(column.to_numpy()) for name, column in whole.to_dict().items()},
        "activations": _steps(contexts.values[part], largest[feature]),
    }


def _steps(
    values: Float[np.ndarray, "n"], largest: Float[np.ndarray, "n"]
) -> UInt8[np.ndarray, "n"]:
    """Shares of the largest in 255 steps: 0 for what does not fire, at least 1 for what does."""
    share = np.zeros(len(values), np.float32)
    np.divide(255 * values, largest, where=largest > 0, out=share)
    return np.where(values > 0, np.clip(np.rint(share), 1, 255), 0).astype(np.uint8)


def _points(x: list[float], y: list[float]) -> dict[str, Any]:
    """The activations of a feature and its partner, each in 255 steps of its largest."""
    sides = [np.nan_to_num(np.array(side, np.float32)).clip(0) for side in (x, y)]
    tops = [float(side.max()) for side in sides]
    steps = [
        _steps(side, np.full(len(side), top, np.float32))
        for side, top in zip(sides, tops, strict=True)
    ]
    return {"x": steps[0], "y": steps[1], "top": [short(top) for top in tops]}


def _records(
    table: pl.DataFrame, numbers: Sequence[str], texts: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows as records without what is null, undefined or empty."""
    names = [name for name in (*numbers, *texts) if name in table.columns]
    if not names:
        return [{} for _ in range(len(table))]
    return [
        {name: value for name, value in row.items() if value not in (None, "", [])}
        for row in shortened(table.select(names)).iter_rows(named=True)
    ]


def _matches(table: pl.DataFrame) -> list[dict[str, Any]]:
    """What a match says, and where its partners are: [layer, feature, r] each."""
    records = _records(table, MATCH, ("fails", COLUMN))
    for name, r in PARTNERS.items():
        columns = (f"{name}_layer", f"{name}_feature", r)
        if set(columns) <= set(table.columns):
            for record, (layer, feature, value) in zip(
                records, shortened(table.select(columns)).iter_rows(), strict=True
            ):
                if feature is not None and feature >= 0:
                    record[name] = [layer, feature, value]
    return records
