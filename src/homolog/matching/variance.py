"""What a feature's MPPC depends on: its variance over features and partner sets, by source.

Partner sets are dictionaries in which features of one model look for a partner: of the other
architectures, with a first and another SAE seed; of the same architecture trained from another
seed; of the same model from another SAE seed.  They are nested: dictionaries d in models m in
architectures a.  On the balanced table of features i with a defined r in all P sets

    r_i(amd) = mean + depth(i) + feature_i + architecture_ia + model seed_iam + SAE seed_d +
    residual_i(amd)

with depth in at most `DEPTH_BINS` bins of layers.  An architecture or a model may suit one feature
more than another, so their effects differ between features; all of the variance that they bring, on
average or feature by feature, counts as theirs.  The seed of a dictionary has an average effect;
what it does to single features is not repeated and stays in the residual.

Sums of squares come from projections, nested and hence orthogonal [Searle, Casella & McCulloch
1992, ch. 5]: Q_a on architectures about the mean, Q_m on models within architectures, Q_d on
dictionaries within models.  With Z_l Z_l' the sets that share a level of factor l, components
follow from equating mean squares with their expectations (Henderson's method I), from the innermost
factor outwards,

    E[r_i' Q_k r_i] = sum over l within or equal to k of tr(Q_k Z_l Z_l') s_l

once for the averages over features and once for the deviations from them; a negative estimate is
set to 0.  So "architecture" is what remains of the differences between architectures once those
that another model seed or dictionary makes as well are taken off.  Shares are components over their
sum.

A factor that the study cannot tell apart has no row.  Without a second dictionary of one partner
model the innermost factor is the model seed, or the architecture; its differences feature by
feature are then the residual.

Source: Searle, Casella & McCulloch, "Variance Components", Wiley 1992; Henderson, Biometrics 9
(1953).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from homolog.errors import InputError
from homolog.matching.tables import VARIANCE
from homolog.record.sides import MAIN_LABEL

DEPTH_BINS = 10
PARTNER_SET = ("best_model", "best_label")
FACTORS = ("architecture", "model seed", "SAE seed", "depth", "feature", "residual")


def variance_table(
    matches: pl.DataFrame,
    compared: Sequence[str],
    architectures: Mapping[str, str],
    partner_sets: Collection[str],
) -> pl.DataFrame:
    """Shares of each factor for each compared model, `VARIANCE`; n: features of the balanced table.

    matches: rows of any comparisons; those of `partner_sets` count.  architectures: of every model
    by its name.  A model with fewer than two partner sets, or two features, has no rows.  Raises
    InputError for a partner without architecture.
    """
    rows = []
    for model in compared:
        own = matches.filter(
            pl.col("comparison").is_in(partner_sets), model=model, label=MAIN_LABEL
        )
        partners = own.unique(PARTNER_SET, keep="first", maintain_order=True)["best_model"]
        if len(partners) < 2:
            continue
        table = own.pivot(PARTNER_SET, index=["layer", "feature"], values="r").drop_nulls()
        r = table.drop("layer", "feature").to_numpy().astype(np.float64)
        kept = ~np.isnan(r).any(axis=1)
        if kept.sum() < 2:
            continue
        if missing := [name for name in partners if name not in architectures]:
            requirement = f"{missing[0]} is a partner, and its architecture is needed"
            remedy = "Name the architecture of every model of the study."
            raise InputError("architectures", sorted(architectures), requirement, remedy)
        depth = _depth(table["layer"].to_numpy())[kept]
        shares = split(r[kept], depth, [architectures[name] for name in partners], list(partners))
        n = int(kept.sum())
        rows += [(model, factor, shares[factor], n) for factor in FACTORS if factor in shares]
    return pl.DataFrame(rows, schema=VARIANCE, orient="row")


def _depth(layer: np.ndarray) -> np.ndarray:
    """Bin of each feature by the place of its layer among the layers, at most `DEPTH_BINS`."""
    layers, number = np.unique(layer, return_inverse=True)
    return number * min(DEPTH_BINS, len(layers)) // len(layers)


def split(
    r: Float[np.ndarray, "features sets"],
    depth: Int[np.ndarray, "features"],
    architecture: Sequence[str],
    model: Sequence[str],
) -> dict[str, float]:
    """Share of each factor of `FACTORS` that can be told apart in the variance of r; they sum to 1.

    r: no NaN, at least two features and two sets.  depth: bin of each feature.  architecture,
    model: of each set; sets of one model are its dictionaries.  All 0 but the residual's 1 where r
    does not vary.
    """
    n_features, n_sets = r.shape
    average = r.mean(axis=0)
    specific = r - average
    factors, level, projection = _factors(architecture, model)
    deviations = np.array(
        [((specific @ q) * specific).sum() / (n_features - 1) for q in projection]
    )
    averages = np.array([average @ q @ average for q in projection]) - deviations / n_features
    by_feature = _components(deviations, projection, level)
    on_average = _components(averages, projection, level)
    component = dict(zip(factors, by_feature + on_average, strict=True))
    component[factors[0]] = on_average[0]
    component["residual"] = by_feature[0]
    # Means over sets, by feature: what features bring, and a part of what acts within them.
    mean = specific.mean(axis=1)
    bins, number, size = np.unique(depth, return_inverse=True, return_counts=True)
    centre = np.bincount(number, mean) / size
    within = ((mean - centre[number]) ** 2).sum() / max(1, n_features - len(bins))
    shared = sum(s * z.sum() / n_sets**2 for s, z in zip(by_feature, level, strict=True))
    component["feature"] = max(0.0, within - shared)
    if len(bins) > 1:
        between = (size * centre**2).sum() - (len(bins) - 1) * within
        component["depth"] = max(0.0, between / n_features)
    total = sum(component.values())
    if total <= 0:
        return {name: float(name == "residual") for name in component}
    return {name: float(value / total) for name, value in component.items()}


def _factors(
    architecture: Sequence[str], model: Sequence[str]
) -> tuple[list[str], list[np.ndarray], list[np.ndarray]]:
    """The factors that tell sets apart, innermost first: names, Z Z' of each, projection Q."""
    n_sets = len(model)
    names = {  # a level of a factor holds the sets whose names agree
        "SAE seed": range(n_sets),
        "model seed": zip(architecture, model, strict=True),
        "architecture": architecture,
    }
    levels = [_same(list(values)) for values in names.values()]
    means = [*map(_means, levels), np.full((n_sets, n_sets), 1 / n_sets)]
    projections = [inner - outer for inner, outer in pairwise(means)]
    present = [k for k, projection in enumerate(projections) if np.trace(projection) > 0.5]
    return (
        [list(names)[k] for k in present],
        [levels[k] for k in present],
        [projections[k] for k in present],
    )


def _same(names: Sequence[object]) -> np.ndarray:
    """Z Z': 1. where two sets have the same level of a factor."""
    return np.array([[float(one == other) for other in names] for one in names])


def _means(same: np.ndarray) -> np.ndarray:
    """Projection of sets onto the means of their levels."""
    return same / same.sum(axis=1, keepdims=True)


def _components(
    squares: np.ndarray, projections: list[np.ndarray], levels: list[np.ndarray]
) -> np.ndarray:
    """Components s_l >= 0, innermost first: squares_k = sum over l <= k of tr(Q_k Z_l Z_l') s_l."""
    components = np.zeros(len(squares))
    for k, projection in enumerate(projections):
        traces = np.array([np.trace(projection @ level) for level in levels[: k + 1]])
        components[k] = max(0.0, (squares[k] - traces[:k] @ components[:k]) / traces[k])
    return components
