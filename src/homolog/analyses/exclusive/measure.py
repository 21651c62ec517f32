"""The task of the lists: the shared and exclusive features of a direction, the latter regressed."""

from __future__ import annotations

import polars as pl

from homolog.analyses.analysis import Tables
from homolog.analyses.exclusive.lists import lists
from homolog.analyses.exclusive.regression import exclusive_r2
from homolog.analyses.material import Material
from homolog.record.tables import LISTS, MATCHES, SAES


def measure_pair(material: Material, model: str, best_model: str) -> Tables:
    """Task: the best features of `model` that `best_model` has, or has not, in one of its own."""
    listed = lists(
        material.table(MATCHES),
        material.table(SAES),
        least_freq=material.recipe.matching.frequency_floor,
        most=material.interpretation.listed,
    ).filter(model=model, best_model=best_model)
    alone = listed.filter(list="exclusive")
    own = [material.features(model, layer) for layer in alone["layer"].unique().sort()]
    layers = range(material.n_layers(best_model))
    others = [material.features(best_model, layer) for layer in layers]
    alone = exclusive_r2(alone, own, others, seed=material.seed)
    return {LISTS.name: pl.concat([listed.filter(list="shared"), alone], how="diagonal")}
