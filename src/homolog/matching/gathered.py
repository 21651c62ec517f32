"""The columns of features and their partners, gathered row by row from the layers they lie in.

What is computed of them is independent from row to row, and shared out to threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import polars as pl
from jaxtyping import Int

from homolog.matching.columns import Columns, SparseEntries
from homolog.matching.tables import PARTNER

Place = tuple[Any, Int[np.ndarray, "rows"], Int[np.ndarray, "rows"]]
"""Layers of a side, and for every row the layer and the feature there; -1 for none."""


def is_defined(rows: pl.DataFrame) -> pl.Series:
    """Which matches have an r."""
    return rows["r"].is_not_nan() & rows["r"].is_not_null()


def places_of(
    rows: pl.DataFrame,
    controls: Sequence[pl.DataFrame],
    layers_of: Callable[[str, str], Sequence[Any]],
) -> list[Place]:
    """Of matches: the features, their partners, and those in each control; none without an r."""
    own = rows.select(
        best_model="model", best_label="label", best_layer="layer", best_feature="feature"
    )
    known = pl.when(is_defined(rows)).then("best_feature")
    return [
        _place_of(each.with_columns(best_feature=known), layers_of)
        for each in (own, *(partners.select(PARTNER) for partners in (rows, *controls)))
    ]


def _place_of(partners: pl.DataFrame, layers_of: Callable[[str, str], Sequence[Any]]) -> Place:
    """Where the columns of partners lie: the layers of all their sides, one after the other."""
    layers: list[Any] = []
    number: dict[tuple[Any, ...], int] = {}
    blocks = list(partners.select("best_model", "best_label", "best_layer").iter_rows())
    for model, label in dict.fromkeys(block[:2] for block in blocks):
        if model is None:
            continue
        for layer in layers_of(model, label):
            number[model, label, layer.layer] = len(layers)
            layers.append(layer)
    places = np.array([number.get(block, 0) for block in blocks], np.int64)
    return layers, places, partners["best_feature"].fill_null(-1).to_numpy()


def gathered(
    places: Sequence[Place], rows: np.ndarray, columns: Callable[[Any], Columns]
) -> SparseEntries:
    """Sparse columns of all places of the first row, then of the second, and so on."""
    parts: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for k, (layers, layer, feature) in enumerate(places):
        for number in np.unique(layer[rows][feature[rows] >= 0]):
            of_layer = columns(layers[number])
            for at in np.flatnonzero((layer[rows] == number) & (feature[rows] >= 0)):
                parts[int(at) * len(places) + k] = _column(of_layer, int(feature[rows[at]]))
    nothing = np.zeros(0, np.int32), np.zeros(0, np.float32)
    every = [parts.get(place, nothing) for place in range(len(rows) * len(places))]
    start = np.concatenate([[0], np.cumsum([len(token) for token, _ in every])]).astype(np.int64)
    token, value = (np.concatenate(column) for column in zip(nothing, *every, strict=True))
    return SparseEntries(start, token, value)


def rows_in_threads(
    work: Callable[[int, int], Any], n: int, at_once: int, threads: int | None = None
) -> None:
    """work(first, last) for all of n rows, `at_once` of them at a time.

    work: gives up Python's lock.  threads: numba's by default.
    """
    with ThreadPoolExecutor(threads or numba.get_num_threads()) as pool:
        firsts = range(0, n, at_once)
        list(pool.map(lambda first: work(first, min(first + at_once, n)), firsts))


def _column(columns: Columns, feature: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, values) of a feature, up to a shift and a positive factor, which change no share."""
    place = int(columns.position[feature])
    if place < 0:  # constant
        return np.zeros(0, np.int32), np.zeros(0, np.float32)
    if place < columns.n_dense:
        return np.arange(columns.n_tokens, dtype=np.int32), columns.dense[:, place]
    start, token, value = columns.by_column
    here = slice(*start[place - columns.n_dense :][:2])
    return token[here], value[here]
