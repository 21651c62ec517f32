"""What the list of features sorts and filters by: one file a column, of a model or of an ordered
pair of models.

Rows of a model stand layer after layer, and in each the features 0, 1, ...; so a row's number says
layer and feature, and the best partner is one number too.  A page loads the columns that it needs:
about 2.7 bytes a feature each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int, UInt32

from homolog.errors import InputError
from homolog.report.explorer.packing import NO_ROW, packed, quantised, smallest, write_data


@dataclass(frozen=True)
class Measure:
    """A column of numbers: its name in the tables, a title, what it says, and how it is shown.

    of_pair: of matches, else of features; log: spread over orders of magnitude; first: in the first
    view; digits: after the point, or of the percentage where `percent`.
    """

    name: str
    title: str
    says: str
    of_pair: bool = False
    log: bool = False
    first: bool = False
    digits: int = 2
    percent: bool = False


MEASURES = (
    Measure("r", "r", "correlation with its best partner", of_pair=True, first=True, digits=3),
    Measure(
        "excess",
        "Excess",
        "r less what chance reaches at its frequency",
        of_pair=True,
        first=True,
        digits=3,
    ),
    Measure(
        "freq", "Active", "share of tokens at which it fires", log=True, first=True, percent=True
    ),
    Measure("token_entropy", "Token entropy", "bits; 0 when it fires on one token only"),
    Measure("token_r2", "Token R²", "share of its variance that the current token alone explains"),
    Measure(
        "context_tokens", "Context needed", "tokens to the left that its activation needs", digits=1
    ),
    Measure("consistency", "Consistency", "likeness of the contexts in which it fires"),
    Measure(
        "complexity", "Complexity, judged", "1 (simple) to 5, said by a language model", digits=0
    ),
    Measure(
        "consistency_judged", "Consistency, judged", "1 to 5, said by a language model", digits=0
    ),
    Measure("detection", "Detection", "how well the explanation tells held-out contexts apart"),
    Measure(
        "causal_r",
        "Causal agreement",
        "correlation of the effects of both features on the next token",
    ),
    Measure("exclusive_r2", "R² from all", "explained by all features of the other model together"),
)


@dataclass(frozen=True)
class Rows:
    """Where the features of a model stand: `sizes` features in each layer from 0."""

    model: str
    sizes: tuple[int, ...]

    @property
    def n(self) -> int:
        return sum(self.sizes)

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


def rows_of(features: pl.DataFrame, n_layers: Mapping[str, int]) -> list[Rows]:
    """The rows of every model of `n_layers`, in its order.

    Raises `InputError` when a model, layer or column is unknown, or a layer's features are not 0,
    1, ... once each.
    """
    _check_columns("features", features, ("model", "layer", "feature"))
    unknown = set(features["model"].unique()) - set(n_layers)
    if unknown:
        raise InputError(
            "features",
            sorted(unknown),
            "each model must have a number of layers",
            "Add it to n_layers.",
        )
    counts = features.group_by("model", "layer").agg(
        pl.len(),
        whole=(pl.col("feature").n_unique() == pl.len())
        & (pl.col("feature").max() == pl.len() - 1),
    )
    found = {(row["model"], row["layer"]): row for row in counts.iter_rows(named=True)}
    for (model, layer), row in sorted(found.items()):
        if not (row["whole"] and 0 <= layer < n_layers[model]):
            raise InputError(
                "features",
                f"{model}, layer {layer}",
                "a layer must exist and have its features 0, 1, ... once each",
                "Give one row a feature, those that never fire among them.",
            )
    return [
        Rows(
            model,
            tuple(
                found[model, layer]["len"] if (model, layer) in found else 0
                for layer in range(depth)
            ),
        )
        for model, depth in n_layers.items()
    ]


def main_pairs(matches: pl.DataFrame, rows: Sequence[Rows]) -> list[tuple[int, int]]:
    """Ordered pairs (from, to) of places in `rows` that `matches` has.  Raises `InputError` where
    there is none.
    """
    _check_columns(
        "matches",
        matches,
        ("model", "layer", "feature", "r", "best_model", "best_layer", "best_feature"),
    )
    found = set(matches.select("model", "best_model").unique().iter_rows())
    pairs = [
        (i, j)
        for i, a in enumerate(rows)
        for j, b in enumerate(rows)
        if i != j and (a.model, b.model) in found and a.n
    ]
    if not pairs:
        raise InputError(
            "matches",
            len(matches),
            "there must be matches between two of the models",
            "Give the rows of the comparison main.",
        )
    return pairs


def _check_columns(field: str, table: pl.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise InputError(
            field,
            ", ".join(table.columns),
            f"it must have the columns {', '.join(missing)}",
            "See docs/formats.md.",
        )


def of_pair(matches: pl.DataFrame, a: Rows, b: Rows) -> pl.DataFrame:
    """The matches from `a` to `b` in the order of a's rows, null where a feature has none."""
    own = matches.filter((pl.col("model") == a.model) & (pl.col("best_model") == b.model))
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


def write_columns(
    folder: Path, features: pl.DataFrame, matches: pl.DataFrame, rows: Sequence[Rows]
) -> list[dict[str, Any]]:
    """Write data/columns/ for every model and pair; returns what the page is told of the columns
    that exist.
    """
    written: dict[str, Measure] = {}

    def write(place: str, measure: Measure, table: pl.DataFrame) -> None:
        if measure.name in table.columns and table[measure.name].is_not_null().any():
            values = table[measure.name].cast(pl.Float64).fill_null(np.nan).to_numpy()
            write_data(folder, f"columns/{place}-{measure.name}", quantised(values, measure.log))
            written[f"{place}-{measure.name}"] = measure

    for place, model in enumerate(rows):
        own = features.filter(pl.col("model") == model.model).sort("layer", "feature")
        for measure in MEASURES:
            if not measure.of_pair:
                write(str(place), measure, own)
        if "top_tokens" in own.columns:
            write_data(folder, f"columns/{place}-token", _first_tokens(own["top_tokens"]))
    for i, j in main_pairs(matches, rows):
        table = of_pair(matches, rows[i], rows[j])
        for measure in MEASURES:
            if measure.of_pair:
                write(f"{i}-{j}", measure, table)
        places = (
            table[name].fill_null(-1).cast(pl.Int64).to_numpy()
            for name in ("best_layer", "best_feature")
        )
        write_data(folder, f"columns/{i}-{j}-best", packed(rows[j].find(*places)))
        if "homolog" in table.columns:
            judged = table["homolog"].cast(pl.UInt8).fill_null(2).to_numpy()
            write_data(folder, f"columns/{i}-{j}-homolog", packed(judged))
    return [
        {
            **vars(measure),
            "of": [
                key.removesuffix(f"-{measure.name}") for key, m in written.items() if m is measure
            ],
        }
        for measure in MEASURES
        if measure in written.values()
    ]


def _first_tokens(top: pl.Series) -> dict[str, Any]:
    """The most activating token of each feature: the distinct ones in order, and each feature's
    place among them.
    """
    first = top.list.first().fill_null("")
    words = sorted({"", *first.unique().to_list()})
    place = {word: i for i, word in enumerate(words)}
    codes = np.array([place[word] for word in first.to_list()], np.uint32)
    return {"words": words, **packed(smallest(codes, len(words)))}
