"""From the tables of all comparisons to verdicts: stability, homologs, shares with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from homolog.analyses.material import Material
from homolog.analyses.units import Texts, alignment, rows_of
from homolog.features import StoredFeatures, open_features
from homolog.matching import Columns
from homolog.matching.control_fit import FittedControls, fitted
from homolog.matching.homologs import Baseline, Criterion, classify
from homolog.matching.matched_features import MatchedFeatures
from homolog.matching.stability import with_stability
from homolog.matching.tables import STABILITY
from homolog.matching.variance import variance_table
from homolog.matching.verdict import resampled_shares, resampled_table, verdicts
from homolog.pipeline.models import left_out
from homolog.pipeline.text import MATCH
from homolog.record.comparisons import (
    COMPARISONS,
    MAIN,
    MAIN_SEED,
    MODEL_SEED,
    SAE_SEED,
    SAE_SEEDS,
    TOKENS,
    Comparison,
)
from homolog.record.sides import MAIN_LABEL, Models, Pair, Side
from homolog.record.table import Table
from homolog.record.tables import MATCHES, RESAMPLED, SHARED, VARIANCE

FoldersOn = Callable[[Side, Texts | None], list[Path]]
PARTNER_SETS = [c.name for c in (MAIN, MAIN_SEED, SAE_SEED, MODEL_SEED)]
"""Comparisons whose partners differ by architecture, model seed and SAE seed."""


def controls_of(material: Material, saes: pl.DataFrame) -> FittedControls:
    """The controls of the result: every baseline that is as well fitted as what it controls."""
    off = left_out(material.recipe)
    baselines = [
        _baseline(c, material.models)
        for c in COMPARISONS
        if c.role == "baseline" and c.kind == MAIN.kind and not (c.extra and c.setting in off)
    ]
    return fitted(baselines, saes, material.recipe.matching.control_gap)


def _baseline(comparison: Comparison, models: Models) -> Baseline:
    pairs = list(comparison.pairs(models))
    return Baseline(
        comparison.name,
        comparison.in_sentence("{}"),
        _stand_ins(comparison, models, pairs),
        comparison.stands_for,
        by_token=comparison is TOKENS,
    )


def _stand_ins(
    comparison: Comparison, models: Models, pairs: Sequence[Pair]
) -> dict[str, tuple[str, str]] | None:
    """For each compared model the side that takes its place; None where one does for all."""
    if comparison.stands_for == "model":
        return {a.model.name: (b.model.name, b.label) for a, b in pairs}
    sides = {b.model: (b.model.name, b.label) for _, b in pairs}
    twins = {name: sides[twin] for name, twin in models.untrained.items() if twin in sides}
    own = {model.name: sides[model] for model in models.compared if model in sides}
    known = {*models.compared, *models.untrained.values()}
    return own | twins if known >= sides.keys() else None


def verdict_tables(
    material: Material,
    matches: pl.DataFrame,
    saes: pl.DataFrame,
    folders_on: FoldersOn,
    columns: Callable[[StoredFeatures], Columns],
) -> dict[Table, pl.DataFrame]:
    """The tables matches, with stability and homologs, shared, resampled and variance.

    folders_on: the features of a side, by the units of two texts where they are given.  columns:
    their prepared columns.
    """
    recipe, models, controls = material.recipe, material.models, controls_of(material, saes)
    settings = recipe.matching
    criterion = Criterion.of(MAIN.name, controls.baselines, settings)

    def features_on(text: str, texts: Texts | None) -> MatchedFeatures:
        def layers_of(model: str, label: str) -> list[StoredFeatures]:
            side = Side(by_name[model], label)
            return [open_features(folder) for folder in folders_on(side, texts)]

        return MatchedFeatures(*_tokens(material, text, texts), layers_of, columns)

    by_name = {model.name: model for model in models.all}
    plain = _with_documents(_with_stability(matches), material, features_on)
    table = classify(plain, criterion, _beyond(material, plain, criterion, features_on))
    replicates: dict[tuple[str, str], np.ndarray] = {}
    for text, texts, rows in _by_text(material, table.filter(comparison=MAIN.name)):
        features = features_on(text, texts)
        replicates |= features.replicates(rows, settings.resamples, recipe.run.seed)
    resampled = resampled_shares(table, criterion.result, replicates)
    shared = verdicts(
        table,
        saes,
        criterion,
        ceiling=SAE_SEED.name,
        unfit=controls.left_out,
        resampled=resampled,
    )
    architectures = {
        model.name: material.run.facts(f"dictionaries {model.name}")["model"]["architecture"]
        for model in models.all
    }
    variance = variance_table(
        table, [model.name for model in models.compared], architectures, PARTNER_SETS
    )
    again = resampled_table(shared, resampled)
    return {MATCHES: table, SHARED: shared, RESAMPLED: again, VARIANCE: variance}


def _beyond(
    material: Material,
    matches: pl.DataFrame,
    criterion: Criterion,
    features_on: Callable[[str, Texts | None], MatchedFeatures],
) -> pl.DataFrame:
    """What partners explain beyond the controls, one row for each of the result's, in order.

    Tokens, or units, are of a kind by the token of the feature's own model that ends there.
    """
    is_main = pl.col("comparison") == MAIN.name
    others = matches.filter(~is_main)
    parts = []
    for text, texts, rows in _by_text(material, matches.filter(is_main).with_row_index("_row")):
        own = pl.concat([rows.drop("_row"), others])
        beyond = features_on(text, texts).beyond(own, criterion)
        parts.append(beyond.with_columns(rows["_row"]))
    return pl.concat(parts).sort("_row").drop("_row")


def _with_documents(
    matches: pl.DataFrame,
    material: Material,
    features_on: Callable[[str, Texts | None], MatchedFeatures],
) -> pl.DataFrame:
    """With the documents in which a match fires, for those that verdicts and ceilings count."""
    counted = pl.col("comparison") == MAIN.name
    counted |= (pl.col("comparison") == SAE_SEED.name) & (pl.col("label") == MAIN_LABEL)
    rows = matches.with_row_index("_row")
    parts = [
        own.select("_row", documents=features_on(text, texts).together(own))
        for text, texts, own in _by_text(material, rows.filter(counted))
    ]
    together = pl.concat(parts)
    return rows.join(together, on="_row", how="left", maintain_order="left").drop("_row")


def _by_text(
    material: Material, rows: pl.DataFrame
) -> list[tuple[str, Texts | None, pl.DataFrame]]:
    """Rows whose features are of one text, on the same tokens or units: (text, units, rows)."""
    groups: dict[tuple[str, Texts | None], list[tuple[str, str]]] = {}
    for pair in rows.select("model", "best_model").unique(maintain_order=True).iter_rows():
        texts = material.texts_of(*pair)
        groups.setdefault((material.run.text_of(pair[0]), texts), []).append(pair)
    names = ["model", "best_model"]
    made = []
    for (text, texts), own in groups.items():
        pairs = pl.DataFrame(own, schema=dict.fromkeys(names, pl.String), orient="row")
        part = rows.join(pairs, on=names, how="semi", maintain_order="left")
        made.append((text, texts, part))
    return made


def _tokens(material: Material, text: str, texts: Texts | None) -> tuple[np.ndarray, np.ndarray]:
    """Document and current token of every row, as the tokenizer of a text has it."""
    windows = material.windows_of(MATCH, text)
    document, token = windows.token_document, windows.tokens[windows.mask]
    if texts is None:
        return document, token
    aligned = alignment(material, texts)
    return aligned.document, token[rows_of(aligned, texts, text)[1]]


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
