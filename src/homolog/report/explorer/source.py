"""The tables that an explorer is made of, and those of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from homolog.corpus import TokenText
from homolog.record.run_folder import RunFolder
from homolog.report.explorer.rows import FEATURE
from homolog.report.records import ComparisonRecords

OfLayer = Callable[[str, int], pl.DataFrame | None]


@dataclass(frozen=True)
class Source:
    """What an explorer is made of.  Columns that are missing or null are left out of it."""

    features: pl.DataFrame
    """One row per feature, as in features.parquet."""

    matches: pl.LazyFrame
    """As matches.parquet, of which the rows of the comparison main are taken."""

    contexts: OfLayer
    """The examples of the features of a layer, by model and layer, or None."""

    vocabulary: Sequence[TokenText]
    """What each token id of the contexts stands for."""

    n_layers: Mapping[str, int]
    """By model, in the order shown."""

    scatter: OfLayer = lambda model, layer: None
    """Activations of features and their best partners at the same tokens, by model and layer, or
    None: columns feature, scatter_x and scatter_y (list[f32]), and best_model for more than two
    models."""

    name: str = ""
    """Of the run."""


def source_of(records: ComparisonRecords) -> Source:
    """The source of a run that has examples of its features."""
    run = RunFolder(records.path)
    features = pl.read_parquet(run.table("features"))
    for extra in (_rated(run), _causal(run), _exclusive(run)):
        if extra is not None:
            features = features.join(
                extra, on=list(FEATURE), how="left", maintain_order="left", validate="1:1"
            )
    n_layers = dict(features.group_by("model").agg(pl.col("layer").max() + 1).iter_rows())
    return Source(
        features,
        pl.scan_parquet(run.matches),
        lambda model, layer: _read(run.contexts(model, layer)),
        json.loads(run.vocabulary.read_text("utf-8")),
        {model: int(n_layers[model]) for model in records.compared},
        lambda model, layer: _read(run.scatter(model, layer)),
        name=records.name,
    )


def _read(file: Path) -> pl.DataFrame | None:
    return pl.read_parquet(file) if file.is_file() else None


def _rated(run: RunFolder) -> pl.DataFrame | None:
    """What a language model said of some features."""
    table = _read(run.table("judged"))
    columns = ("explanation", "complexity", "consistency_judged", "detection")
    return None if table is None else table.select(*FEATURE, *columns)


def _causal(run: RunFolder) -> pl.DataFrame | None:
    """Agreement of a feature's effect with that of its partner, where it was taken out."""
    table = _read(run.table("causal"))
    if table is None:
        return None
    agreement = pl.col("ablate_r").fill_nan(None).mean().cast(pl.Float32)
    return table.filter("matched").group_by(*FEATURE, maintain_order=True).agg(causal_r=agreement)


def _exclusive(run: RunFolder) -> pl.DataFrame | None:
    """How much of a feature all features of another model predict."""
    table = _read(run.table("lists"))
    if table is None:
        return None
    exclusive = table.filter(pl.col("list") == "exclusive")
    return exclusive.group_by(*FEATURE, maintain_order=True).agg(pl.col("exclusive_r2").max())
