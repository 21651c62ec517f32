"""From the tables of all comparisons to the verdicts: stability, homologs, shares with intervals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from homolog.features import StoredFeatures, open_features
from homolog.matching import Columns, Resamples, replicates_of
from homolog.matching.stability import STABILITY_SCHEMA, with_stability
from homolog.matching.verdict import judge, shared_table, verdicts
from homolog.pipeline.plan import Comparison, Plan
from homolog.record.recipe import Recipe


def judged(
    recipe: Recipe,
    plan: Plan,
    matches: pl.DataFrame,
    saes: pl.DataFrame,
    folders_of: Callable[[Comparison, str], list[Path]],
    columns: Callable[[StoredFeatures], Columns],
) -> dict[str, pl.DataFrame]:
    """The table `matches` with stability and homologs, and the table `shared`, one row an ordered
    pair of models.

    folders_of: the features of a side of a comparison.  columns: their prepared columns.
    """
    untrained = {model: twin.name for model, twin in plan.twins.items()}
    rule = {"homolog_r": recipe.matching.homolog_r, "rival_ratio": recipe.matching.rival_ratio}
    table = judge(_with_stability(matches), untrained, **rule)
    main = table.filter(pl.col("comparison") == "main")
    replicates: dict[tuple[str, str], np.ndarray] = {}
    for comparison in (c for c in plan.comparisons if c.name == "main"):
        a, b = (
            [open_features(folder) for folder in folders_of(comparison, side)]
            for side in ("a", "b")
        )
        resamples = Resamples.draw(a[0].document, recipe.matching.resamples, recipe.run.seed)
        for own, others in ((a, b), (b, a)):
            names = (own[0].name, others[0].name)
            rows = main.filter((pl.col("model") == names[0]) & (pl.col("best_model") == names[1]))
            replicates[names] = replicates_of(rows, own, others, resamples, columns)
    found = verdicts(table, saes, untrained, replicates, **rule)
    return {"matches": table, "shared": shared_table(found)}


def _with_stability(matches: pl.DataFrame) -> pl.DataFrame:
    """The rows of the main comparisons, which come first, with their stability, then all others,
    unmeasured.
    """
    of = {
        name: matches.filter(pl.col("comparison") == name)
        for name in ("main", "main-seed", "sae-seed")
    }
    main = with_stability(of["main"], of["main-seed"], of["sae-seed"])
    rest = matches.filter(pl.col("comparison") != "main")
    unmeasured = {"other_seed_r": float("nan"), "stable": None}
    rest = rest.with_columns(
        pl.lit(unmeasured[name], kind).alias(name) for name, kind in STABILITY_SCHEMA.items()
    )
    return pl.concat([main, rest])
