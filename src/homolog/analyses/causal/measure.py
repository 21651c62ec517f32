"""The task of the causal analysis: from the matches of a direction to its agreements and shares."""

from __future__ import annotations

import polars as pl

from homolog.analyses.analysis import Tables
from homolog.analyses.causal.agreement import agreement
from homolog.analyses.causal.effects import ProbedModel, measure_effects
from homolog.analyses.causal.pairs import choose_pairs
from homolog.analyses.causal.shares import causal_shares
from homolog.analyses.material import Material
from homolog.record.tables import CAUSAL, CAUSAL_SHARES, MATCHES


def measure_pair(material: Material, model: str, best_model: str) -> Tables:
    """Task: are features of `model` causally alike with their matches in `best_model`."""
    seed = material.seed
    pairs, probes = choose_pairs(
        material.table(MATCHES),
        model,
        best_model,
        lambda layer: material.features(model, layer).matrix,
        lambda layer: material.features(best_model, layer).matrix,
        n_pairs=material.interpretation.causal_pairs,
        seed=seed,
    )
    sides = [
        _probed(material, name, pairs[column])
        for name, column in ((model, "layer"), (best_model, "best_layer"))
    ]
    effects = measure_effects(pairs, probes, material.windows("match"), *sides)
    agreements = agreement(pairs, effects, seed=seed)
    shares = causal_shares(agreements, seed=seed)
    direction = pl.lit(model).alias("model"), pl.lit(best_model).alias("best_model")
    return {CAUSAL.name: agreements, CAUSAL_SHARES.name: shares.select(*direction, pl.all())}


def _probed(material: Material, model: str, layers: pl.Series) -> ProbedModel:
    saes = {layer: material.sae(model, layer) for layer in layers.unique().sort()}
    return ProbedModel(material.model(model), saes)
