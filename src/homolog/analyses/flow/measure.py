"""Tasks of feature flow: the layers of one model, or two models by their weights.

within   links, lines and states of every feature (`links`), and its nearest by weights in the
         kept layers before and after
across   its nearest by weights in the most similar layer of the other model, after an
         orthogonal map between the two residual streams
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import polars as pl

from homolog.analyses.analysis import Tables
from homolog.analyses.flow import FITTED_TOKENS
from homolog.analyses.flow.links import Links, Side, links_of
from homolog.analyses.flow.rows import Beside, flow_of
from homolog.analyses.flow.weights import Matched, beside, matched, weight_rows, with_agreement
from homolog.analyses.material import Material
from homolog.analyses.residuals import residual_readers
from homolog.analyses.transplant.measure import counterparts
from homolog.dictionaries import derive_seed
from homolog.matching import procrustes
from homolog.record.comparisons import MAIN
from homolog.record.tables import BY_WEIGHTS, FLOW, LAYERS, MATCHES


def measure(material: Material, model: str, other: str) -> Tables:
    """Task: the flow within a model, where it is given twice; else two models by weights."""
    if model == other:
        return measure_within(material, model)
    return {FLOW.name: FLOW.frame(), BY_WEIGHTS.name: measure_across(material, model, other)}


def measure_within(material: Material, model: str) -> Tables:
    """The flow of all features of a model, and their nearest by weights in neighbouring layers."""
    asked, layers = material.interpretation, material.layers(model)
    n = asked.flow_tokens
    document = material.features(model, layers[0]).document[:n]
    matrices = (material.features(model, layer).matrix[:n] for layer in layers)
    links = links_of(matrices, document, seed=derive_seed(material.seed, "flow", model))
    by_weights = [matched(material, (model, i), (model, j)) for i, j in pairwise(layers)]
    before, after = _beside(material, links, by_weights)
    flow = flow_of(
        model,
        layers,
        links,
        before,
        after,
        n_tokens=len(document),
        least_r=asked.flow_r,
        kept_r=asked.flow_kept_r,
        fdr=material.recipe.matching.fdr,
    )
    parts = [BY_WEIGHTS.frame()]
    for place, found in enumerate(by_weights):
        x, y = (material.features(*of).matrix[:n] for of in (found.a, found.b))
        for one, side, u, v in (
            (found, links[place].after, x, y),
            (found.reversed, links[place + 1].before, y, x),
        ):
            assert side is not None
            parts.append(with_agreement(weight_rows(one, u, v), _best(side)))
    return {FLOW.name: flow, BY_WEIGHTS.name: pl.concat(parts)}


def _beside(
    material: Material, links: Sequence[Links], by_weights: Sequence[Matched]
) -> tuple[list[Beside | None], list[Beside | None]]:
    """Of each layer what weights say of its links to the one before, and to the one after."""
    before, after = list[Beside | None]([None]), list[Beside | None]()
    for place, found in enumerate(by_weights):
        own, other = material.sae(*found.a), material.sae(*found.b)
        down, up = links[place].after, links[place + 1].before
        assert down is not None and up is not None
        after.append(beside(found.match.a_to_b, down.feature, own, other))
        before.append(beside(found.match.b_to_a, up.feature, other, own))
    after.append(None)
    return before, after


def _best(side: Side) -> pl.DataFrame:
    known = np.flatnonzero(side.feature >= 0)
    return pl.DataFrame({"feature": known, "best_feature": side.feature[known]})


def measure_across(material: Material, a: str, b: str) -> pl.DataFrame:
    """Rows of `BY_WEIGHTS` of two models, both ways: each layer with its counterpart."""
    layers, n = material.table(LAYERS), material.interpretation.flow_tokens
    forth = set(counterparts(layers, a, b))
    back = {(own, there) for there, own in counterparts(layers, b, a)}
    read_a, read_b, _ = residual_readers(material, a, b, FITTED_TOKENS)
    parts = [BY_WEIGHTS.frame()]
    for own, there in sorted(forth | back):
        found = matched(
            material, (a, own), (b, there), procrustes(read_a(own).numpy(), read_b(there).numpy())
        )
        x = material.features(a, own, beside=b).matrix[:n]
        y = material.features(b, there, beside=a).matrix[:n]
        if (own, there) in forth:
            parts.append(_with_best(material, weight_rows(found, x, y)))
        if (own, there) in back:
            parts.append(_with_best(material, weight_rows(found.reversed, y, x)))
    return pl.concat(parts).sort("model", "layer", maintain_order=True)


def _with_best(material: Material, rows: pl.DataFrame) -> pl.DataFrame:
    """`with_agreement` by the main comparison."""
    where = rows.select("model", "layer", "best_model", "best_layer").row(0, named=True)
    best = material.table(MATCHES).filter(comparison=MAIN.name, **where)
    return with_agreement(rows, best.filter(pl.col("best_feature") >= 0))
