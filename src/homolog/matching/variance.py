"""What a feature's MPPC depends on: the variance over features and partner sets, split into its
sources.

Partner sets are dictionaries in which features of one model look for a partner: of the other
architectures ("main", and "main-seed" from another SAE seed), of the same architecture trained from
another seed ("model-seed"), of the same model from another SAE seed ("sae-seed").  They are nested:
dictionaries d in models m in architectures a.  On the balanced table of features i with a defined r
in all P sets

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

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from homolog.errors import InputError

DEPTH_BINS = 10
SETS = ("main", "main-seed", "sae-seed", "model-seed")
FACTORS = ("architecture", "model seed", "SAE seed", "depth", "feature", "residual")
VARIANCE_SCHEMA = {"model": pl.String, "factor": pl.String, "share": pl.Float64, "n": pl.Int64}


def variance_table(
    matches: pl.DataFrame, compared: Sequence[str], architectures: Mapping[str, str]
) -> pl.DataFrame:
    """Shares of each factor for each compared model, `VARIANCE_SCHEMA`; n: features of the balanced
    table.

    matches: rows of any comparisons; those of `SETS` count.  architectures: of every model by its
    name, without the "@label" of a dictionary.  A model with fewer than two partner sets, or two
    features, has no rows.  Raises InputError for a partner without architecture.
    """
    rows = []
    for model in compared:
        own = matches.filter((pl.col("model") == model) & pl.col("comparison").is_in(SETS))
        parts = own.partition_by("comparison", "best_model", maintain_order=True)
        if len(parts) < 2:
            continue
        key = ["layer", "feature"]
        table = parts[0].select(*key, pl.col("r").alias("0"))
        for number, part in enumerate(parts[1:], 1):
            table = table.join(
                part.select(*key, pl.col("r").alias(str(number))), on=key, maintain_order="left"
            )
        r = table.drop(key).to_numpy().astype(np.float64)
        kept = ~np.isnan(r).any(axis=1)
        if kept.sum() < 2:
            continue
        names = [part["best_model"][0].rsplit("@", 1)[0] for part in parts]
        if missing := [name for name in names if name not in architectures]:
            raise InputError(
                "architectures",
                sorted(architectures),
                f"{missing[0]} is a partner, and its architecture is needed",
                "Name the architecture of every model of the study.",
            )
        layers = table["layer"].to_numpy()
        found = split(r[kept], _depth(layers)[kept], [architectures[name] for name in names], names)
        rows += [
            (model, factor, found[factor], int(kept.sum())) for factor in FACTORS if factor in found
        ]
    return pl.DataFrame(rows, schema=VARIANCE_SCHEMA, orient="row")  # type: ignore[arg-type]


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
    """Share of each factor in the variance of r, those of `FACTORS` that can be told apart; they
    sum to 1.

    r: no NaN, at least two features and two sets.  depth: bin of each feature.  architecture,
    model: of each set; sets of one model are its dictionaries.  All 0 but the residual's 1 where r
    does not vary.
    """
    n_features, n_sets = r.shape
    average = r.mean(axis=0)
    specific = r - average
    # innermost first; a level holds the sets whose names agree
    names = {
        "SAE seed": range(n_sets),
        "model seed": zip(architecture, model, strict=True),
        "architecture": architecture,
    }
    levels = [_same(list(values)) for values in names.values()]
    projections = [
        inner - outer
        for inner, outer in zip(
            map(_means, levels), [*map(_means, levels[1:]), 1 / n_sets], strict=True
        )
    ]
    present = [k for k, projection in enumerate(projections) if np.trace(projection) > 0.5]
    factors = [list(names)[k] for k in present]
    level, projection = [levels[k] for k in present], [projections[k] for k in present]
    deviations = np.array(
        [((specific @ q) * specific).sum() / (n_features - 1) for q in projection]
    )
    averages = np.array([average @ q @ average for q in projection]) - deviations / n_features
    by_feature, on_average = (
        _components(deviations, projection, level),
        _components(averages, projection, level),
    )
    found = dict(zip(factors, by_feature + on_average, strict=True))
    found[factors[0]] = on_average[0]
    found["residual"] = by_feature[0]
    # Means over sets, by feature: what features bring, and a part of what acts within them.
    mean = specific.mean(axis=1)
    bins, number, size = np.unique(depth, return_inverse=True, return_counts=True)
    centre = np.bincount(number, mean) / size
    within = ((mean - centre[number]) ** 2).sum() / max(1, n_features - len(bins))
    shared = sum(s * z.sum() / n_sets**2 for s, z in zip(by_feature, level, strict=True))
    found["feature"] = max(0.0, within - shared)
    if len(bins) > 1:
        found["depth"] = max(
            0.0, ((size * centre**2).sum() - (len(bins) - 1) * within) / n_features
        )
    total = sum(found.values())
    return {
        name: float(value / total) if total > 0 else float(name == "residual")
        for name, value in found.items()
    }


def _same(names: Sequence[object]) -> np.ndarray:
    """Z Z': 1. where two sets have the same level of a factor."""
    return np.array([[float(one == other) for other in names] for one in names])


def _means(same: np.ndarray) -> np.ndarray:
    """Projection of sets onto the means of their levels."""
    return same / same.sum(axis=1, keepdims=True)


def _components(
    squares: np.ndarray, projections: list[np.ndarray], levels: list[np.ndarray]
) -> np.ndarray:
    """Components from the innermost factor outwards: squares_k = sum over l <= k of tr(Q_k Z_l
    Z_l') s_l, s_l >= 0.
    """
    found = np.zeros(len(squares))
    for k, projection in enumerate(projections):
        traces = np.array([np.trace(projection @ level) for level in levels[: k + 1]])
        found[k] = max(0.0, (squares[k] - traces[:k] @ found[:k]) / traces[k])
    return found
