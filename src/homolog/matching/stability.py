"""Does a feature's partner depend on the seed of the dictionary it was found in?

A dictionary trained again from another seed shares only part of its features [Paulo & Belrose
2025].  For feature i of A, whose best partner in the main dictionaries of B is j:

    r2, j2  = best partner of i in B's dictionaries of a second seed            comparison "main-seed"
    j'      = best partner of j2 among B's main dictionaries                    comparison "sae-seed", B@seed1 to B
    stable  = j' is j, the same layer and feature

r2 says that i's match does not hang on one dictionary; `stable` that both dictionaries of B mean
one thing by it.

Source: Paulo & Belrose, "Sparse Autoencoders Trained on the Same Data Learn Different Features",
arXiv 2501.16615.
"""

from __future__ import annotations

import polars as pl

STABILITY_SCHEMA = {"other_seed_r": pl.Float32, "stable": pl.Boolean}
_FEATURE = ["model", "layer", "feature"]


def with_stability(
    main: pl.DataFrame, main_seed: pl.DataFrame, sae_seed: pl.DataFrame
) -> pl.DataFrame:
    """`main` with `other_seed_r` (Float32, NaN unmeasured) and `stable` (Boolean, null unmeasured);
    rows in order.

    main, main_seed, sae_seed: rows of the matches of those comparisons, both directions of any
    number of pairs; the last two may be empty.  A dictionary of another seed is a model named
    "B@label"; of several, the first in alphabetical order counts.  A feature or partner that is
    constant leaves both unmeasured.
    """
    base = pl.col("best_model").str.replace("@[^@]*$", "")
    seeds = main_seed.filter(pl.col("best_model").str.contains("@")).with_columns(
        base.alias("partner_model")
    )
    first = pl.col("best_model") == pl.col("best_model").min().over("model", "partner_model")
    found = seeds.filter(first).select(
        *_FEATURE,
        "partner_model",
        pl.col("r").alias("other_seed_r"),
        pl.col("best_model").alias("seed_model"),
        pl.col("best_layer").alias("seed_layer"),
        pl.col("best_feature").alias("seed_feature"),
    )
    back = sae_seed.select(
        pl.col("model").alias("seed_model"),
        pl.col("best_model").alias("partner_model"),
        pl.col("layer").alias("seed_layer"),
        pl.col("feature").alias("seed_feature"),
        pl.col("best_layer").alias("back_layer"),
        pl.col("best_feature").alias("back_feature"),
    )
    partner = [*_FEATURE, "partner_model"]
    joined = (
        main.drop(STABILITY_SCHEMA, strict=False)
        .with_columns(pl.col("best_model").alias("partner_model"))
        .join(found, on=partner, how="left", maintain_order="left", validate="m:1")
        .join(
            back,
            on=["seed_model", "partner_model", "seed_layer", "seed_feature"],
            how="left",
            maintain_order="left",
            validate="m:1",
        )
    )
    same = (pl.col("back_layer") == pl.col("best_layer")) & (
        pl.col("back_feature") == pl.col("best_feature")
    )
    measured = (pl.col("best_feature") >= 0) & (pl.col("back_feature") >= 0)
    joined = joined.with_columns(
        pl.col("other_seed_r").fill_null(float("nan")).cast(pl.Float32),
        pl.when(measured).then(same).alias("stable"),
    )
    return joined.select(*main.drop(STABILITY_SCHEMA, strict=False).columns, *STABILITY_SCHEMA)
