"""Which feature of one layer goes on as which of the next, and the lines that these links make.

For features x_i of a kept layer and y_j of the next one of the same model, over the same tokens,

    ancestor(j) = argmax over i of Pearson(x_i, y_j)         descendant(i) = argmax over j of it

It counts where r reaches `least_r` and is significant against the null of the maximum at the
feature's firing frequency (`matching.null`: the same search with whole documents exchanged).  Then

    comes   born: no ancestor counts     changed: one does     kept: r of it is `kept_r` or more
    goes    dies: no descendant does     changes: one does     kept: r of it is `kept_r` or more

A feature's line goes from ancestor to ancestor to where one is born, and from descendant to
descendant to where one dies.  The idea is of [Laptev 2025, arXiv 2502.03032], who link by cosines
of decoders alone; these stand beside r here.  A feature that is constant on these tokens has no r
and no state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from homolog.analyses.stream import shape_of
from homolog.errors import InputError
from homolog.matching import (
    Partners,
    calibrate,
    document_exchanges,
    max_pearson,
    prepare,
)

DRAWS = 500
"""Of the null, from each layer at least: fewer resolve no rate of one in a hundred."""


@dataclass(frozen=True, eq=False)
class Side:
    """The best feature of a neighbouring layer for each feature of a layer.

    feature: int64, -1 for none.  r: float32, NaN for none.  null: r under an exchange of documents,
    float32 (features, draws).
    """

    feature: Int[np.ndarray, " features"]
    r: Float[np.ndarray, " features"]
    null: Float[np.ndarray, "features draws"]


@dataclass(frozen=True, eq=False)
class Links:
    """Those of all features of a layer; None at the first and at the last layer.

    n_active: tokens on which each fires.
    """

    n_active: Int[np.ndarray, " features"]
    before: Side | None = None
    after: Side | None = None


def links_of(
    matrices: Iterable[csr_array],
    document: Int[np.ndarray, " token"],
    *,
    seed: int = 0,
    threads: int | None = None,
) -> list[Links]:
    """The links of the features of every layer, in the order of the layers.

    matrices: activations (token, features) of each layer, taken one after the other; row t of all
    is the same token, of `document`.  A pass over each pair of neighbours, and another for each
    exchange of documents: one, or more where features are so few that a layer has fewer than
    `DRAWS` of the null by it.  Of one document there is no null.  Two layers are in memory at once.
    InputError where layers have other tokens than `document`.
    """
    active, before, after = list[np.ndarray](), list[Side | None]([None]), list[Side | None]()
    lower, orders = None, np.empty((0, len(document)), int)
    for number, matrix in enumerate(matrices):
        if shape_of(matrix)[0] != len(document):
            requirement = f"every row is a token, and their documents are {len(document)}"
            given = f"{shape_of(matrix)[0]} rows"
            raise InputError(f"layer {number}", given, requirement, "Give the same tokens.")
        upper = prepare(matrix)
        if lower is None:
            orders = _exchanges(document, shape_of(matrix)[1], seed)
        active.append(np.bincount(matrix.indices[matrix.data != 0], minlength=shape_of(matrix)[1]))
        if lower is not None:
            best = max_pearson(lower, upper, threads=threads)
            by_chance = [max_pearson(lower, upper.reordered(o), threads=threads) for o in orders]
            after.append(_side(best.a_to_b, [one.a_to_b for one in by_chance]))
            before.append(_side(best.b_to_a, [one.b_to_a for one in by_chance]))
        lower = upper
    after.append(None)
    return [Links(*given) for given in zip(active, before, after, strict=True)]


def _exchanges(document: np.ndarray, n_features: int, seed: int) -> np.ndarray:
    """(exchanges, tokens), as `document_exchanges`; none of one document."""
    possible = len(np.unique(document)) - 1
    n = min(possible, -(-DRAWS // max(1, n_features)))
    return document_exchanges(document, n, seed) if n > 0 else np.empty((0, len(document)), int)


def _side(best: Partners, by_chance: Sequence[Partners]) -> Side:
    draws = [np.empty((len(best.r), 0), np.float32), *(one.r for one in by_chance)]
    return Side(best.index[:, 0], best.r[:, 0], np.concatenate(draws, axis=1))


def needed(
    sides: Sequence[tuple[Side, Int[np.ndarray, " features"]]],
    n_tokens: int,
    *,
    least_r: float,
    fdr: float,
) -> list[Float[np.ndarray, " features"]]:
    """Least r that counts, of the features of each layer: float32, NaN where r is.

    sides: of all layers in one direction, which are calibrated together, each with `n_active`.
    """
    if not sides:
        return []
    r, null, n_active = (
        np.concatenate(parts)
        for parts in zip(*((side.r, side.null, active) for side, active in sides), strict=True)
    )
    least = np.where(np.isnan(r), np.nan, least_r).astype(np.float32)
    if np.isfinite(null).any() and np.isfinite(r).any():
        by_chance = calibrate(r, n_active, null, n_tokens=n_tokens, fdr=fdr).threshold
        least = np.where(np.isnan(r), np.nan, np.maximum(least, by_chance)).astype(np.float32)
    return np.split(least, np.cumsum([len(side.r) for side, _ in sides])[:-1])


def states(
    r: Float[np.ndarray, " features"],
    least: Float[np.ndarray, " features"],
    kept_r: float,
    words: tuple[str, str, str],
) -> list[str | None]:
    """The word of each feature, of `COMES` or `GOES`; None without an r."""
    none, changed, kept = words
    counts = r >= least
    said = np.where(counts, np.where(r >= kept_r, kept, changed), none)
    return [
        None if undefined else str(word) for word, undefined in zip(said, np.isnan(r), strict=True)
    ]


def lines(
    sizes: Sequence[int],
    neighbour: Sequence[Int[np.ndarray, " features"] | None],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(place of the layer, feature) where the line of each feature ends, layer by layer.

    neighbour: for each layer the feature of the one before it as which a feature comes, -1 for
    none, or None at its end; for lines the other way, everything in reverse.
    """
    ends: list[tuple[np.ndarray, np.ndarray]] = []
    for place, (size, goes_on_as) in enumerate(zip(sizes, neighbour, strict=True)):
        layer, feature = np.full(size, place), np.arange(size)
        if goes_on_as is not None and ends:
            linked = goes_on_as >= 0
            layer[linked] = ends[-1][0][goes_on_as[linked]]
            feature[linked] = ends[-1][1][goes_on_as[linked]]
        ends.append((layer, feature))
    return ends
