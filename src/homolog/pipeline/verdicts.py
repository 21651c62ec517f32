"""From the tables of all comparisons to verdicts: stability, homologs, shares with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from homolog.analyses.material import Material
from homolog.features import StoredFeatures, open_features
from homolog.matching import Columns, Resamples, replicates_of
from homolog.matching.beyond import Grouping, Place, beyond_controls
from homolog.matching.control_fit import FittedControls, fitted
from homolog.matching.homologs import PARTNER, Baseline, Criterion, classify
from homolog.matching.stability import with_stability
from homolog.matching.tables import BEYOND, STABILITY
from homolog.matching.variance import variance_table
from homolog.matching.verdict import verdicts
from homolog.pipeline.text import MATCH
from homolog.record.comparisons import (
    COMPARISONS,
    MAIN,
    MAIN_LABEL,
    MAIN_SEED,
    MODEL_SEED,
    OWN_RANDOM,
    SAE_SEED,
    SAE_SEEDS,
    TOKENS,
    Comparison,
    Models,
    Side,
    StudyModel,
)
from homolog.record.table import Table
from homolog.record.tables import MATCHES, SHARED, VARIANCE

PARTNER_SETS = [c.name for c in (MAIN, MAIN_SEED, SAE_SEED, MODEL_SEED)]
"""Comparisons whose partners differ by architecture, model seed and SAE seed."""


def controls_of(material: Material, saes: pl.DataFrame) -> FittedControls:
    """The controls of the result: every baseline that is as well fitted as what it controls."""
    baselines = [
        _baseline(c, material.models)
        for c in COMPARISONS
        if c.role == "baseline" and c.kind == MAIN.kind
    ]
    return fitted(baselines, saes, material.recipe.matching.control_gap)


def _baseline(comparison: Comparison, models: Models) -> Baseline:
    words = comparison.in_sentence("{}")
    if comparison is OWN_RANDOM:
        twins = {name: (twin.name, MAIN_LABEL) for name, twin in models.untrained.items()}
        return Baseline(comparison.name, words, twins, "model")
    stand_ins = _stand_ins(comparison, models)
    return Baseline(comparison.name, words, stand_ins, by_token=comparison is TOKENS)


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
    recipe, models, controls = material.recipe, material.models, controls_of(material, saes)
    settings = recipe.matching
    criterion = Criterion(
        MAIN.name, controls.baselines, settings.margin, settings.rival_ratio, settings.fdr
    )
    plain = _with_stability(matches)
    beyond = beyond_all(material, plain, controls.baselines, folders_of, columns)
    table = classify(plain, criterion, beyond)
    main = table.filter(comparison=MAIN.name)
    replicates: dict[tuple[str, str], np.ndarray] = {}
    for pair in MAIN.pairs(models):
        a, b = ([open_features(folder) for folder in folders_of(side)] for side in pair)
        resamples = Resamples.draw(a[0].document, recipe.matching.resamples, recipe.run.seed)
        for own, others in ((a, b), (b, a)):
            names = (own[0].model, others[0].model)
            rows = main.filter(model=names[0], best_model=names[1])
            replicates[names] = replicates_of(rows, own, others, resamples, columns)
    shared = verdicts(
        table,
        saes,
        criterion,
        ceiling=SAE_SEED.name,
        unfit=controls.left_out,
        replicates=replicates,
    )
    architectures = {
        model.name: material.run.facts(f"dictionaries {model.name}")["model"]["architecture"]
        for model in models.all
    }
    variance = variance_table(
        table, [model.name for model in models.compared], architectures, PARTNER_SETS
    )
    return {MATCHES: table, SHARED: shared, VARIANCE: variance}


def beyond_all(
    material: Material,
    matches: pl.DataFrame,
    baselines: Sequence[Baseline],
    folders_of: Callable[[Side], list[Path]],
    columns: Callable[[StoredFeatures], Columns],
) -> pl.DataFrame:
    """What partners explain beyond the controls, one row for each of the result's, in order."""
    rows = matches.filter(comparison=MAIN.name)
    text, by_name = material.windows(MATCH), {model.name: model for model in material.models.all}
    by_token = any(b.by_token and not _of(matches, b).is_empty() for b in baselines)
    token = text.tokens[text.mask] if by_token else None
    grouping = Grouping.of(text.token_document, token)
    defined = rows["r"].is_not_nan() & rows["r"].is_not_null()
    partners = [b.partners(matches, rows).select(PARTNER) for b in baselines if not b.by_token]
    own = rows.select(best_model="model", best_label="label", best_layer="layer")
    own = own.with_columns(best_feature=rows["feature"])
    places = [own, rows.select(PARTNER), *partners]
    parts = []
    for model, label in rows.select("model", "label").unique(maintain_order=True).rows():
        here = ((rows["model"] == model) & (rows["label"] == label)).to_numpy()
        given = [
            place.with_columns(best_feature=pl.when(defined).then("best_feature")).filter(here)
            for place in places
        ]
        sides = [_place(of_rows, by_name, folders_of) for of_rows in given]
        made = beyond_controls(sides[0], sides[1], sides[2:], grouping, columns)
        parts.append(made.with_columns(_row=np.flatnonzero(here)))
    whole = pl.concat(parts).sort("_row").drop("_row") if parts else pl.DataFrame(schema=BEYOND)
    return whole if by_token else whole.with_columns(token_r2=pl.lit(None, pl.Float32))


def _of(matches: pl.DataFrame, baseline: Baseline) -> pl.DataFrame:
    return matches.filter(comparison=baseline.name)


def _place(
    rows: pl.DataFrame,
    models: Mapping[str, StudyModel],
    folders_of: Callable[[Side], list[Path]],
) -> Place:
    """Where the columns of rows lie: the layers of all their sides, one after the other."""
    layers: list[StoredFeatures] = []
    first = {}
    for name, label in rows.select("best_model", "best_label").unique(maintain_order=True).rows():
        if name is not None:
            first[name, label] = len(layers)
            layers += [open_features(folder) for folder in folders_of(Side(models[name], label))]
    sides = zip(rows["best_model"], rows["best_label"], strict=True)
    offset = np.array([first.get(side, 0) for side in sides], np.int64)
    number = offset + rows["best_layer"].fill_null(0).to_numpy()
    return layers, number, rows["best_feature"].fill_null(-1).to_numpy()


def _with_stability(matches: pl.DataFrame) -> pl.DataFrame:
    """The rows of the main comparison, which come first, with their stability, then all others."""
    main, across = (matches.filter(comparison=c.name) for c in (MAIN, MAIN_SEED))
    back = matches.filter(pl.col("comparison").is_in([SAE_SEED.name, SAE_SEEDS.name]))
    rest = matches.filter(pl.col("comparison") != MAIN.name)
    unmeasured = {"other_seed_r": float("nan")}
    rest = rest.with_columns(
        pl.lit(unmeasured.get(name), kind).alias(name) for name, kind in STABILITY.items()
    )
    return pl.concat([with_stability(main, across, back), rest])
