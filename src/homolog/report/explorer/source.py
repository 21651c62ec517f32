"""The tables that an explorer is made of, and those of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import polars as pl

from homolog.analyses.records import StudyRecords
from homolog.corpus import TokenText
from homolog.record.run_folder import RunFolder
from homolog.record.table import Table
from homolog.record.tables import CAUSAL, CONTEXTS, FEATURES, LISTS, MATCHES, RATINGS, SCATTER
from homolog.report.explorer.rows import FEATURE

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


def source_of(records: StudyRecords) -> Source:
    """The source of a run that has examples of its features."""
    run, features = records.folder, records.table(FEATURES)
    for extra in (_rated(records), _causal(records), _exclusive(records)):
        keys = list(FEATURE)
        features = features.join(extra, on=keys, how="left", maintain_order="left", validate="1:1")
    n_layers = dict(features.group_by("model").agg(pl.col("layer").max() + 1).iter_rows())
    return Source(
        features,
        MATCHES.scan(run.table(MATCHES)),
        partial(_of_layer, run, CONTEXTS),
        json.loads(run.vocabulary.read_text("utf-8")),
        {model: int(n_layers[model]) for model in records.compared},
        partial(_of_layer, run, SCATTER),
        name=records.name,
    )


def _of_layer(run: RunFolder, table: Table, model: str, layer: int) -> pl.DataFrame | None:
    file = run.table(table, model, layer)
    return table.read(file) if file.is_file() else None


def _rated(records: StudyRecords) -> pl.DataFrame:
    """What a language model said of some features."""
    columns = ("explanation", "complexity", "consistency_rated", "detection")
    return records.table(RATINGS).select(*FEATURE, *columns)


def _causal(records: StudyRecords) -> pl.DataFrame:
    """Agreement of a feature's effect with that of its partner, where it was taken out."""
    agreement = pl.col("ablate_r").fill_nan(None).mean().cast(pl.Float32)
    matched = records.table(CAUSAL).filter("matched")
    return matched.group_by(*FEATURE, maintain_order=True).agg(causal_r=agreement)


def _exclusive(records: StudyRecords) -> pl.DataFrame:
    """How much of a feature all features of another model predict."""
    exclusive = records.table(LISTS).filter(list="exclusive")
    return exclusive.group_by(*FEATURE, maintain_order=True).agg(pl.col("exclusive_r2").max())
