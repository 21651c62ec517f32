"""From the tables of all comparisons to the verdicts: stability, homologs, shares, intervals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from homolog.features import StoredFeatures, open_features
from homolog.matching import Columns, Resamples, replicates_of
from homolog.matching.homologs import Baseline, Criterion, classify
from homolog.matching.stability import with_stability
from homolog.matching.tables import STABILITY
from homolog.matching.verdict import verdicts
from homolog.pipeline.plan import Comparison, Plan
from homolog.pipeline.recipe import Recipe

RESULT, ACROSS, CEILING = "main", "main-seed", "sae-seed"
PARTNER_SETS = (RESULT, ACROSS, CEILING, "model-seed")  # of the variance of MPPC


def criterion_of(recipe: Recipe, plan: Plan) -> Criterion:
    """What makes a match a homolog in this study."""
    untrained = {model: twin.name for model, twin in plan.twins.items()}
    rotated = {c.b.name: c.name_b for c in plan.comparisons if c.name == "rotated"}
    baselines = (
        Baseline("random-model", "an untrained {}", untrained),
        Baseline("rotated", "{} with rotated dictionaries", rotated),
        Baseline("tokens", "the current token"),
    )
    return Criterion(RESULT, baselines, recipe.matching.homolog_r, recipe.matching.rival_ratio)


def judged(
    recipe: Recipe,
    plan: Plan,
    matches: pl.DataFrame,
    saes: pl.DataFrame,
    folders_of: Callable[[Comparison, str], list[Path]],
    columns: Callable[[StoredFeatures], Columns],
) -> dict[str, pl.DataFrame]:
    """The table `matches` with stability and homologs, and the table `shared`.

    folders_of: the features of a side of a comparison.  columns: their prepared columns.
    """
    criterion = criterion_of(recipe, plan)
    table = classify(_with_stability(matches), criterion)
    result = table.filter(pl.col("comparison") == RESULT)
    replicates: dict[tuple[str, str], np.ndarray] = {}
    for comparison in (c for c in plan.comparisons if c.name == RESULT):
        a, b = (
            [open_features(folder) for folder in folders_of(comparison, side)]
            for side in ("a", "b")
        )
        resamples = Resamples.draw(a[0].document, recipe.matching.resamples, recipe.run.seed)
        for own, others in ((a, b), (b, a)):
            names = (own[0].name, others[0].name)
            rows = result.filter(model=names[0], best_model=names[1])
            replicates[names] = replicates_of(rows, own, others, resamples, columns)
    shared = verdicts(table, saes, criterion, ceiling=CEILING, replicates=replicates)
    return {"matches": table, "shared": shared}


def _with_stability(matches: pl.DataFrame) -> pl.DataFrame:
    """The rows of the result, which come first, with their stability, then the others, without."""
    result, across, back = (
        matches.filter(pl.col("comparison") == name) for name in (RESULT, ACROSS, CEILING)
    )
    rest = matches.filter(pl.col("comparison") != RESULT)
    unmeasured = {"other_seed_r": float("nan"), "stable": None}
    rest = rest.with_columns(
        pl.lit(unmeasured[name], kind).alias(name) for name, kind in STABILITY.items()
    )
    return pl.concat([with_stability(result, across, back), rest])
