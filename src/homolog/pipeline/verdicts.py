"""From the tables of all comparisons to verdicts: stability, homologs, shares with intervals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from homolog.analyses.material import Material
from homolog.features import StoredFeatures, open_features
from homolog.matching import Columns, Resamples, replicates_of
from homolog.matching.stability import with_stability
from homolog.matching.variance import variance_table
from homolog.matching.verdict import classify, shared_table, verdicts
from homolog.record.comparisons import MAIN, MAIN_SEED, SAE_SEED, Side
from homolog.record.table import Table
from homolog.record.tables import MATCHES, SHARED, VARIANCE


def verdict_tables(
    material: Material,
    matches: pl.DataFrame,
    saes: pl.DataFrame,
    folders_of: Callable[[Side], list[Path]],
    columns: Callable[[StoredFeatures], Columns],
) -> dict[Table, pl.DataFrame]:
    """The tables matches, with stability and homologs, shared and variance.

    folders_of: the features of a side.  columns: their prepared columns.
    """
    recipe, models = material.recipe, material.models
    untrained = {model: twin.name for model, twin in models.untrained.items()}
    rule = {"homolog_r": recipe.matching.homolog_r, "rival_ratio": recipe.matching.rival_ratio}
    table = classify(_with_stability(matches), untrained, **rule)
    main = table.filter(comparison=MAIN.name)
    replicates: dict[tuple[str, str], np.ndarray] = {}
    for pair in MAIN.pairs(models):
        a, b = ([open_features(folder) for folder in folders_of(side)] for side in pair)
        resamples = Resamples.draw(a[0].document, recipe.matching.resamples, recipe.run.seed)
        for own, others in ((a, b), (b, a)):
            names = (own[0].model, others[0].model)
            rows = main.filter(model=names[0], best_model=names[1])
            replicates[names] = replicates_of(rows, own, others, resamples, columns)
    shared = shared_table(verdicts(table, saes, untrained, replicates, **rule))
    architectures = {
        model.name: material.run.facts(f"dictionaries {model.name}")["model"]["architecture"]
        for model in models.all
    }
    variance = variance_table(table, [model.name for model in models.compared], architectures)
    return {MATCHES: table, SHARED: shared, VARIANCE: variance}


def _with_stability(matches: pl.DataFrame) -> pl.DataFrame:
    """The rows of the main comparison, which come first, with their stability, then all others."""
    of = {c.name: matches.filter(comparison=c.name) for c in (MAIN, MAIN_SEED, SAE_SEED)}
    main = with_stability(*of.values())
    rest = matches.filter(pl.col("comparison") != MAIN.name)
    rest = rest.with_columns(
        other_seed_r=pl.lit(float("nan"), pl.Float32), stable=pl.lit(None, pl.Boolean)
    )
    return pl.concat([main, rest])
