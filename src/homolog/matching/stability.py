"""Does a feature's partner depend on the seed of the dictionary it was found in?

A dictionary trained again from another seed shares only part of its features [Paulo & Belrose
2025].  For feature i of A, whose best partner in the main dictionaries of B is j, and every further
seed s of B's dictionaries:

    r_s, j_s  = best partner of i in B's dictionaries of seed s                     `across`
    j'_s      = best partner of j_s among B's main dictionaries                     `back`
    back_in   = number of seeds s with j'_s = j, the same layer and feature
    stable    = back_in is the number of further seeds

r_s says that i's match does not hang on one dictionary; `stable` that all dictionaries of B mean
one thing by it.

Source: Paulo & Belrose, "Sparse Autoencoders Trained on the Same Data Learn Different Features",
arXiv 2501.16615.
"""

from __future__ import annotations

import polars as pl

from homolog.matching.tables import FEATURE, STABILITY
from homolog.record.sides import MAIN_LABEL


def with_stability(main: pl.DataFrame, across: pl.DataFrame, back: pl.DataFrame) -> pl.DataFrame:
    """`main` with `other_seed_r`, `back_in` and `stable`; rows in order.

    main: matches of the main dictionaries of both models.  across: of a main dictionary with a
    partner's dictionaries of other seeds.  back: of a model's dictionaries of two seeds.  All with
    both directions of any number of pairs; the last two may be empty.  `other_seed_r` is of the
    first seed in alphabetical order, NaN unmeasured; the other two are of all seeds, null where one
    of them is unmeasured.  A feature or partner that is constant leaves all unmeasured.
    """
    key = [*FEATURE, "best_model"]
    plain = main.drop(STABILITY, strict=False)
    there = across.filter(pl.col("best_label") != MAIN_LABEL).select(
        *key,
        seed_r="r",
        seed_label="best_label",
        seed_layer="best_layer",
        seed_feature="best_feature",
    )
    again = back.filter(pl.col("best_label") == MAIN_LABEL).select(
        best_model="model",
        seed_label="label",
        seed_layer="layer",
        seed_feature="feature",
        back_layer="best_layer",
        back_feature="best_feature",
    )
    seed = ["best_model", "seed_label", "seed_layer", "seed_feature"]
    returned = there.join(again, on=seed, how="left", validate="m:1").join(
        plain.select(*key, "best_layer", "best_feature"), on=key, how="inner", validate="m:1"
    )
    same = (pl.col("back_layer") == pl.col("best_layer")) & (
        pl.col("back_feature") == pl.col("best_feature")
    )
    measured = (pl.col("best_feature") >= 0) & (pl.col("back_feature").fill_null(-1) >= 0)
    of_all = returned.group_by(key).agg(
        other_seed_r=pl.col("seed_r").sort_by("seed_label").first(),
        back_in=pl.when(measured.all()).then(same.sum()),
        n_seeds=pl.len(),
    )
    joined = plain.join(of_all, on=key, how="left", maintain_order="left", validate="m:1")
    joined = joined.with_columns(
        pl.col("other_seed_r").fill_null(float("nan")).cast(STABILITY["other_seed_r"]),
        pl.col("back_in").cast(STABILITY["back_in"]),
        stable=pl.col("back_in") == pl.col("n_seeds"),
    )
    return joined.select(*plain.columns, *STABILITY)
