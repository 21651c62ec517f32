"""The row of a feature, by which all files of the explorer know it, and tables in that order.

Rows of a model stand layer after layer, and in each the features 0, 1, ...; so a row's number says
layer and feature, and a partner in another model is one number too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Int, UInt32

from homolog.errors import InputError
from homolog.record.comparisons import MAIN

NO_ROW = 2**32 - 1
FEATURE = ("model", "layer", "feature")
MATCH = ("comparison", *FEATURE, "r", "best_model", "best_layer", "best_feature")


@dataclass(frozen=True)
class ModelRows:
    """Where the features of a model stand: `sizes` features in each layer from 0."""

    model: str
    sizes: tuple[int, ...]

    @property
    def starts(self) -> Int[np.ndarray, "layers"]:
        """The row of feature 0 of each layer."""
        return np.cumsum((0, *self.sizes))[:-1]

    def find(
        self, layer: Int[np.ndarray, "n"], feature: Int[np.ndarray, "n"]
    ) -> UInt32[np.ndarray, "n"]:
        """Rows of these features, `NO_ROW` for those that do not exist."""
        sizes = np.array(self.sizes)
        inside = (layer >= 0) & (layer < len(sizes)) & (feature >= 0)
        safe = np.where(inside, layer, 0)
        inside &= feature < sizes[safe]
        return np.where(inside, self.starts[safe] + feature, NO_ROW).astype(np.uint32)


def rows_of(features: pl.DataFrame, n_layers: Mapping[str, int]) -> list[ModelRows]:
    """The rows of every model of `n_layers`, in its order.

    Raises `InputError` when a model, layer or column is unknown, or a layer's features are not 0,
    1, ... once each.
    """
    _check_columns("features", features.columns, FEATURE)
    if unknown := set(features["model"].unique()) - set(n_layers):
        requirement = "each model must have a number of layers"
        raise InputError("features", sorted(unknown), requirement, "Add it to n_layers.")
    feature, n = pl.col("feature"), pl.len()
    once_each = (feature.n_unique() == n) & (feature.max() == n - 1)
    layers = features.group_by("model", "layer").agg(pl.len(), once_each=once_each)
    sizes: dict[tuple[str, int], int] = {}
    for model, layer, size, whole in layers.sort("model", "layer").iter_rows():
        if not (whole and 0 <= layer < n_layers[model]):
            requirement = "a layer must exist and have its features 0, 1, ... once each"
            remedy = "Give one row per feature, those that never fire among them."
            raise InputError("features", f"{model}, layer {layer}", requirement, remedy)
        sizes[model, layer] = size
    return [
        ModelRows(model, tuple(sizes.get((model, layer), 0) for layer in range(depth)))
        for model, depth in n_layers.items()
    ]


def main_matches(matches: pl.LazyFrame) -> pl.DataFrame:
    """The matches of the comparison main; `InputError` where a column is missing."""
    _check_columns("matches", matches.collect_schema().names(), MATCH)
    return matches.filter(comparison=MAIN.name).collect()


def main_pairs(matches: pl.DataFrame, models: Sequence[ModelRows]) -> list[tuple[int, int]]:
    """Ordered pairs (from, to) of places in `models` that have matches; `InputError` for none."""
    matched = set(matches.select("model", "best_model").unique().iter_rows())
    pairs = [
        (i, j)
        for i, a in enumerate(models)
        for j, b in enumerate(models)
        if i != j and (a.model, b.model) in matched and any(a.sizes)
    ]
    if not pairs:
        requirement = "there must be matches between two of the models"
        remedy = "Give the rows of the comparison main."
        raise InputError("matches", len(matches), requirement, remedy)
    return pairs


def _check_columns(field: str, columns: Sequence[str], required: Sequence[str]) -> None:
    if missing := [name for name in required if name not in columns]:
        requirement = f"it must have the columns {', '.join(missing)}"
        raise InputError(field, ", ".join(columns), requirement, "See docs/formats.md.")


def of_pair(matches: pl.DataFrame, a: ModelRows, b: ModelRows) -> pl.DataFrame:
    """The matches from `a` to `b` in the order of a's rows, null where a feature has none."""
    own = matches.filter(model=a.model, best_model=b.model)
    every = pl.DataFrame(
        {
            "layer": np.repeat(np.arange(len(a.sizes), dtype=np.int32), a.sizes),
            "feature": np.concatenate([np.arange(size, dtype=np.int32) for size in a.sizes]),
        }
    )
    keys = pl.col("layer", "feature").cast(pl.Int32)
    return every.join(
        own.with_columns(keys).unique(["layer", "feature"], keep="first"),
        ["layer", "feature"],
        how="left",
        maintain_order="left",
    )
