"""From the tables of all comparisons to verdicts: stability, homologs, shares with intervals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from homolog.analyses.material import Material
from homolog.features import StoredFeatures, open_features
from homolog.matching import Columns, Resamples, replicates_of
from homolog.matching.homologs import Baseline, Criterion, classify
from homolog.matching.stability import with_stability
from homolog.matching.tables import STABILITY
from homolog.matching.variance import variance_table
from homolog.matching.verdict import verdicts
from homolog.record.comparisons import (
    COMPARISONS,
    MAIN,
    MAIN_SEED,
    MODEL_SEED,
    SAE_SEED,
    Comparison,
    Models,
    Side,
)
from homolog.record.table import Table
from homolog.record.tables import MATCHES, SHARED, VARIANCE

PARTNER_SETS = [c.name for c in (MAIN, MAIN_SEED, SAE_SEED, MODEL_SEED)]
"""Comparisons whose partners differ by architecture, model seed and SAE seed."""


def criterion_of(material: Material) -> Criterion:
    """What makes a match a homolog in this study: it beats every baseline that was run."""
    settings = material.recipe.matching
    baselines = [
        Baseline(c.name, c.in_sentence("{}"), _stand_ins(c, material.models))
        for c in COMPARISONS
        if c.role == "baseline" and c.kind == MAIN.kind
    ]
    return Criterion(MAIN.name, baselines, settings.homolog_r, settings.rival_ratio)


def _stand_ins(comparison: Comparison, models: Models) -> dict[str, tuple[str, str]] | None:
    """For each compared model the side that takes its place; None where one does for all."""
    sides = {b.model: (b.model.name, b.label) for _, b in comparison.pairs(models)}
    twins = {name: sides[twin] for name, twin in models.untrained.items() if twin in sides}
    own = {model.name: sides[model] for model in models.compared if model in sides}
    known = {*models.compared, *models.untrained.values()}
    return own | twins if known >= sides.keys() else None


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
    recipe, models, criterion = material.recipe, material.models, criterion_of(material)
    table = classify(_with_stability(matches), criterion)
    main = table.filter(comparison=MAIN.name)
    replicates: dict[tuple[str, str], np.ndarray] = {}
    for pair in MAIN.pairs(models):
        a, b = ([open_features(folder) for folder in folders_of(side)] for side in pair)
        resamples = Resamples.draw(a[0].document, recipe.matching.resamples, recipe.run.seed)
        for own, others in ((a, b), (b, a)):
            names = (own[0].model, others[0].model)
            rows = main.filter(model=names[0], best_model=names[1])
            replicates[names] = replicates_of(rows, own, others, resamples, columns)
    shared = verdicts(table, saes, criterion, ceiling=SAE_SEED.name, replicates=replicates)
    architectures = {
        model.name: material.run.facts(f"dictionaries {model.name}")["model"]["architecture"]
        for model in models.all
    }
    variance = variance_table(
        table, [model.name for model in models.compared], architectures, PARTNER_SETS
    )
    return {MATCHES: table, SHARED: shared, VARIANCE: variance}


def _with_stability(matches: pl.DataFrame) -> pl.DataFrame:
    """The rows of the main comparison, which come first, with their stability, then all others."""
    main, across, back = (matches.filter(comparison=c.name) for c in (MAIN, MAIN_SEED, SAE_SEED))
    rest = matches.filter(pl.col("comparison") != MAIN.name)
    unmeasured = {"other_seed_r": float("nan"), "stable": None}
    rest = rest.with_columns(pl.lit(unmeasured[n], kind).alias(n) for n, kind in STABILITY.items())
    return pl.concat([with_stability(main, across, back), rest])
