"""Does a feature's partner depend on the seed of the dictionary it was found in?

A dictionary trained again from another seed shares only part of its features [Paulo & Belrose
2025].  For feature i of A, whose best partner in the main dictionaries of B is j:

    r2, j2  = best partner of i in B's dictionaries of a second seed              `across`
    j'      = best partner of j2 among B's main dictionaries                      `back`
    stable  = j' is j, the same layer and feature

r2 says that i's match does not hang on one dictionary; `stable` that both dictionaries of B mean
one thing by it.

Source: Paulo & Belrose, "Sparse Autoencoders Trained on the Same Data Learn Different Features",
arXiv 2501.16615.
"""

from __future__ import annotations

import polars as pl

from homolog.matching.tables import FEATURE, STABILITY
from homolog.record.comparisons import MAIN_LABEL


def with_stability(main: pl.DataFrame, across: pl.DataFrame, back: pl.DataFrame) -> pl.DataFrame:
    """`main` with `other_seed_r`, NaN unmeasured, and `stable`, null unmeasured; rows in order.

    main: matches of the main dictionaries of both models.  across: of a main dictionary with a
    partner's dictionary of another seed.  back: of a model's dictionaries of two seeds.  All with
    both directions of any number of pairs; the last two may be empty.  Of several other seeds the
    first in alphabetical order counts.  A feature or partner that is constant leaves both
    unmeasured.
    """
    there = across.filter(pl.col("best_label") != MAIN_LABEL)
    first = pl.col("best_label") == pl.col("best_label").min().over("model", "label", "best_model")
    there = there.filter(first).select(
        *FEATURE,
        "best_model",
        other_seed_r="r",
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
    plain = main.drop(STABILITY, strict=False)
    seed = ["best_model", "seed_label", "seed_layer", "seed_feature"]
    joined = plain
    for rows, key in ((there, [*FEATURE, "best_model"]), (again, seed)):
        joined = joined.join(rows, on=key, how="left", maintain_order="left", validate="m:1")
    same = (pl.col("back_layer") == pl.col("best_layer")) & (
        pl.col("back_feature") == pl.col("best_feature")
    )
    measured = (pl.col("best_feature") >= 0) & (pl.col("back_feature") >= 0)
    joined = joined.with_columns(
        pl.col("other_seed_r").fill_null(float("nan")).cast(STABILITY["other_seed_r"]),
        pl.when(measured).then(same).alias("stable"),
    )
    return joined.select(*plain.columns, *STABILITY)
