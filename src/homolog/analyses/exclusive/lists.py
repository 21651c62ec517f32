"""The best shared and the exclusive features of every ordered pair of compared models.

    shared     features with a homolog that is mutual, highest r first
    exclusive  features without homolog and with r < 0.7 that are frequent and well reconstructed:
               the dictionary of their layer passed its gates, and a dictionary of another seed has
               the feature as well (own_seed_r >= 0.7; where the study did not look there, the
               gates alone decide); lowest r first

A feature without homolog but with a higher r is neither: both models have it, and so has a control.
"""

from __future__ import annotations

import polars as pl

from homolog.errors import InputError
from homolog.matching.intervals import HIGH_MATCH
from homolog.record.comparisons import MAIN, SAE_SEED
from homolog.record.sides import MAIN_LABEL
from homolog.record.tables import LISTS
from homolog.record.tables.describing import FEATURE_KEY

LISTS_SCHEMA = LISTS.only(*(n for n in LISTS.columns if n not in ("exclusive_r2", "steps")))


def lists(
    matches: pl.DataFrame, saes: pl.DataFrame, *, least_freq: float = 1e-3, most: int = 100
) -> pl.DataFrame:
    """At most `most` shared and exclusive features of every direction, as `LISTS_SCHEMA`.

    matches, saes: the tables of a run.  least_freq: of an exclusive feature.  rank counts from 1;
    own_seed_r is null where not measured.  Raises InputError when the study has no verdict on
    single features.
    """
    classified = pl.col("homolog").is_not_null() & pl.col("r").is_not_nan()
    main = matches.filter(classified, comparison=MAIN.name)
    if main.is_empty():
        requirement = "shared and exclusive features need the null and the gates"
        remedy = "Run the study with its null."
        raise InputError("matches", "no feature is classified", requirement, remedy)
    seeds = matches.filter(pl.col("r").is_not_nan(), comparison=SAE_SEED.name, label=MAIN_LABEL)
    seeds = seeds.group_by(FEATURE_KEY).agg(own_seed_r=pl.col("r").max())
    good = saes.filter(pl.col("label") == MAIN_LABEL, "passed")
    good = good.select("model", pl.col("layer").cast(pl.Int32))
    rows = main.join(seeds, on=FEATURE_KEY, how="left", maintain_order="left")
    passed = rows.join(good, on=["model", "layer"], how="semi", maintain_order="left")
    alone = (
        ~pl.col("homolog"),
        pl.col("r") < HIGH_MATCH,
        pl.col("freq") >= least_freq,
        pl.lit(seeds.is_empty()) | (pl.col("own_seed_r") >= HIGH_MATCH),
    )
    shared = rows.filter("homolog", "mutual").sort(
        "r", *FEATURE_KEY, descending=[True, *[False] * len(FEATURE_KEY)]
    )
    ordered = {"shared": shared, "exclusive": passed.filter(*alone).sort("r", *FEATURE_KEY)}
    directions = main.select("model", "best_model").unique(maintain_order=True)
    parts = []
    for direction in directions.iter_rows(named=True):
        for name, table in ordered.items():
            own = table.filter(**direction).head(most)
            numbered = own.with_columns(list=pl.lit(name), rank=pl.int_range(1, pl.len() + 1))
            parts.append(numbered.select(*LISTS_SCHEMA).cast(LISTS_SCHEMA))  # type: ignore[arg-type]
    return pl.concat(parts)
