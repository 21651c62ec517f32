"""The columns of the tables that matching makes, each with its dtype, said once."""

from __future__ import annotations

import polars as pl
from polars.datatypes import DataTypeClass

Schema = dict[str, DataTypeClass]

FEATURE = ["model", "layer", "feature"]  # what tells features apart

MATCHES: Schema = {
    "comparison": pl.String,
    "kind": pl.String,
    "model": pl.String,
    "layer": pl.Int32,
    "feature": pl.Int32,
    "n_active": pl.Int64,
    "freq": pl.Float64,
    "r": pl.Float32,
    "best_model": pl.String,
    "best_layer": pl.Int32,
    "best_feature": pl.Int32,
    "runner_up_r": pl.Float32,
    "runner_up_layer": pl.Int32,
    "runner_up_feature": pl.Int32,
    "null_r": pl.Float32,
    "threshold": pl.Float32,
    "p": pl.Float64,
    "q": pl.Float64,
    "excess": pl.Float32,
    "mutual": pl.Boolean,
    "partner_r": pl.Float32,
    "partner_layer": pl.Int32,
    "partner_feature": pl.Int32,
}
"""One row per feature and direction; r, p and q are NaN, indices -1, where undefined."""

STABILITY: Schema = {"other_seed_r": pl.Float32, "stable": pl.Boolean}
"""Columns that `stability.with_stability` adds to matches."""

HOMOLOGS: Schema = {
    "rival_r": pl.Float32,
    "control_r": pl.Float32,
    "bar": pl.Float32,
    "homolog": pl.Boolean,
}
"""Columns that `homologs.classify` adds to matches."""

QUANTILES = {"q10": 0.1, "q25": 0.25, "median": 0.5, "q75": 0.75, "q90": 0.9}

LAYERS: Schema = {
    "comparison": pl.String,
    "kind": pl.String,
    "model": pl.String,
    "layer": pl.Int32,
    "best_model": pl.String,
    "best_layer": pl.Int32,
    "n_features": pl.Int64,
    "n_defined": pl.Int64,
    **dict.fromkeys(("mean", *QUANTILES), pl.Float64),
}
"""One row per pair of layers and direction: the largest r of each feature of (model, layer) within
(best_model, best_layer), its mean and quantiles over the features where it is defined."""

SUMMARY: Schema = {
    **dict.fromkeys(("comparison", "kind", "model", "best_model", "stratum"), pl.String),
    **dict.fromkeys(("n_features", "n_undefined"), pl.Int64),
    **dict.fromkeys(("mean", "mean_lo", "mean_hi", "median", "median_lo", "median_hi"), pl.Float64),
    "share_above_07": pl.Float64,
}
"""One row per comparison, direction and stratum: see `intervals.summarise`."""

SHARED: Schema = {
    "model": pl.String,
    "best_model": pl.String,
    **dict.fromkeys(("n_features", "n_alive"), pl.Int64),
    **dict.fromkeys(("share", "lo", "hi", "ceiling", "mean_r", "mean_excess"), pl.Float64),
    "share_significant": pl.Float64,
    "share_mutual": pl.Float64,
    "share_one_to_one": pl.Float64,
    "share_stable": pl.Float64,
    "given": pl.Boolean,
    "reason": pl.String,
    "words": pl.String,
}
"""One row per ordered pair of models: see `verdict.verdicts`."""

VARIANCE: Schema = {
    "model": pl.String,
    "factor": pl.String,
    "share": pl.Float64,
    "n": pl.Int64,
}
"""One row per model and factor: see `variance.variance_table`."""


def completed(frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """`frame` with the columns of `schema` that it lacks, all null."""
    missing = {name: kind for name, kind in schema.items() if name not in frame.columns}
    return frame.with_columns(pl.lit(None, kind).alias(name) for name, kind in missing.items())


def with_partner(matches: pl.DataFrame) -> pl.DataFrame:
    """`matches` with the two parts of `best_model`: `partner_model` and `best_label`.

    "mamba-s0@seed1" has the parts "mamba-s0" and "seed1"; without an "@" the label is null.  The
    only place that takes such names apart.
    """
    name = pl.col("best_model")
    return matches.with_columns(
        partner_model=name.str.replace("@[^@]*$", ""), best_label=name.str.extract("@([^@]*)$")
    )
