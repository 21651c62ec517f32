"""Is a feature without homolog really exclusive, or spread over several of the other model's?

A feature y is regressed on all features of all layers of the other model, X (tokens, features):

    min_w |y - mean(y) - Z w|^2,    Z = X centred and divided by its standard deviations

on the training documents, by conjugate gradients (CGLS [Bjoerck 1996, section 7.4]), whose step
number is the regularisation: early steps only use directions of large variance, and later ones fit
noise, as a falling ridge penalty would [Hansen 1998, chapter 6]. The number of steps is the one
that is best on validation documents, and the result is

    exclusive_r2 = 1 - sum (y - y')^2 / sum (y - mean(y))^2

on test documents, half of all, used for nothing else.

One run gives all strengths of regularisation, and a step needs two products with the sparse X,
which is never copied. R^2 near the square of the best single correlation: one-to-one matching
missed nothing.  Far above: the information is there, over several features.  At or below 0: the
other model's features do not tell it.

Bjoerck, "Numerical Methods for Least Squares Problems", 1996.  Hansen, "Rank-Deficient and Discrete
Ill-Posed Problems", 1998.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from scipy.sparse import csr_array, hstack

from homolog.analyses.analysis import Tables
from homolog.analyses.exclusive.lists import lists
from homolog.analyses.material import Material
from homolog.analyses.stream import split_documents
from homolog.errors import InputError
from homolog.features import SparseFeatures, check_same_stream
from homolog.record.tables import LISTS, MATCHES, SAES

TRAIN, VALIDATION, TEST = 0, 1, 2
SHARES = (0.4, 0.1, 0.5)
_TARGETS_AT_ONCE = 32


def measure_pair(material: Material, model: str, best_model: str) -> Tables:
    """Task: the best features of `model` that `best_model` has, or has not, in one of its own."""
    listed = lists(
        material.table(MATCHES),
        material.table(SAES),
        least_freq=material.recipe.matching.frequency_floor,
        most=material.interpretation.listed,
    ).filter(model=model, best_model=best_model)
    alone = listed.filter(list="exclusive")
    own = [
        material.features(model, layer, beside=best_model)
        for layer in alone["layer"].unique().sort()
    ]
    layers = material.layers(best_model)
    others = [material.features(best_model, layer, beside=model) for layer in layers]
    alone = exclusive_r2(alone, own, others, seed=material.seed)
    return {LISTS.name: pl.concat([listed.filter(list="shared"), alone], how="diagonal")}


def exclusive_r2(
    features: pl.DataFrame,
    own: Sequence[SparseFeatures],
    others: Sequence[SparseFeatures],
    *,
    seed: int = 0,
) -> pl.DataFrame:
    """The rows of `features` with `exclusive_r2` (Float32) and `steps` (Int32) after it.

    features: columns layer and feature of one model. own: its layers, at least those asked for.
    others: all layers of the other model, on the same stream. seed: of the split by documents.
    exclusive_r2 is NaN where the feature, or the number of documents, leaves nothing to fit or to
    test; then steps is 0.
    Memory: 5 x 32 columns of float64 over the tokens, and 4 x 32 over the features of `others`,
    besides the features.
    """
    if not others:
        requirement = "the regression needs the features of the other model"
        raise InputError("others", 0, requirement, "Give all its layers.")
    check_same_stream([*others, *own])
    columns = _columns(features, own)
    part = split_documents(others[0].document, SHARES, seed)
    blocks = [other.matrix for other in others]
    scores, steps = [np.empty(0)], [np.empty(0, np.int64)]
    for start in range(0, len(features), _TARGETS_AT_ONCE):
        block = columns[:, start : start + _TARGETS_AT_ONCE].toarray().astype(np.float64)
        score, best = regress(block, blocks, part)
        scores.append(score)
        steps.append(best)
    return features.with_columns(
        exclusive_r2=pl.Series(np.concatenate(scores).astype(np.float32)),
        steps=pl.Series(np.concatenate(steps).astype(np.int32)),
    )


def _columns(features: pl.DataFrame, own: Sequence[SparseFeatures]) -> csr_array:
    """The columns asked for, (tokens, rows of `features`), in their order."""
    layers, parts, order = {side.layer: side.matrix for side in own}, [], [np.empty(0, np.int64)]
    for (layer,), rows in features.with_row_index("at").group_by("layer", maintain_order=True):
        if layer not in layers:
            requirement = f"the layers given are {sorted(layers)}"
            raise InputError("layer", layer, requirement, "Give that layer's features.")
        parts.append(layers[layer][:, rows["feature"].to_numpy()])
        order.append(rows["at"].to_numpy().astype(np.int64))
    if not parts:
        return csr_array((0, 0), dtype=np.float32)
    return csr_array(hstack(parts, format="csr"))[:, np.argsort(np.concatenate(order))]


def regress(
    y: Float[np.ndarray, "token targets"],
    blocks: Sequence[csr_array],
    part: Int[np.ndarray, " token"],
    *,
    most_steps: int = 100,
    patience: int = 8,
) -> tuple[Float[np.ndarray, " targets"], Int[np.ndarray, " targets"]]:
    """(R^2 on the test tokens, CGLS steps) of each target, at the step best in validation.

    y: float64.  blocks: the regressors, CSR (tokens, features) each, side by side.  part: `TRAIN`,
    `VALIDATION` or `TEST` for every token.  patience: steps without a gain on the validation
    documents after which a target is finished.  Step 0 predicts the mean.  NaN and 0 where y is
    constant on one of the three parts.
    """
    is_part = [part == name for name in (TRAIN, VALIDATION, TEST)]
    defined = np.full(y.shape[1], all(rows.any() for rows in is_part))
    for rows in is_part if defined.any() else ():
        defined &= np.ptp(y[rows], axis=0) > 0
    score, step = np.full(y.shape[1], np.nan), np.zeros(y.shape[1], np.int64)
    if defined.any():
        score[defined], step[defined] = _cgls(
            y[:, defined], Standardised(blocks, is_part[TRAIN]), is_part, most_steps, patience
        )
    return score, step


class Standardised:
    """Z of the module's opening as two products, over regressors that stay sparse, in blocks."""

    def __init__(self, blocks: Sequence[csr_array], train: np.ndarray) -> None:
        self.blocks, self.n_tokens = blocks, len(train)
        n, rows = int(train.sum()), train.astype(np.float64)
        self.mean, self.scale = [], []
        for x in blocks:
            mean = (x.T @ rows) / n
            squares = x.data.astype(np.float64) ** 2
            square = csr_array((squares, x.indices, x.indptr), shape=x.shape).T @ rows / n
            variance = square - mean**2
            varies = variance > 1e-12 * square
            self.mean.append(mean)
            self.scale.append(np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1.0)), 0.0))

    def times(self, weights: Sequence[np.ndarray]) -> np.ndarray:
        """Z w, (tokens, targets), of weights (features, targets) a block."""
        total = np.zeros((self.n_tokens, weights[0].shape[1]))
        for x, mean, scale, w in zip(self.blocks, self.mean, self.scale, weights, strict=True):
            scaled = scale[:, None] * w
            total += x @ scaled
            total -= mean @ scaled
        return total

    def transposed(self, r: np.ndarray) -> list[np.ndarray]:
        """Z' r, (features, targets) a block, of r (tokens, targets)."""
        total = r.sum(axis=0)
        return [
            scale[:, None] * (x.T @ r - mean[:, None] * total)
            for x, mean, scale in zip(self.blocks, self.mean, self.scale, strict=True)
        ]


def _cgls(
    y: np.ndarray,
    z: Standardised,
    is_part: Sequence[np.ndarray],
    most_steps: int,
    patience: int,
) -> tuple[np.ndarray, np.ndarray]:
    """All targets in step; every target has its own step lengths."""
    train, validation, test = is_part
    left = y - y[train].mean(axis=0)  # what is not yet explained, on all tokens
    fitted = left * train[:, None]
    direction = z.transposed(fitted)
    gradient = _squares(direction)
    first = gradient.copy()
    best = np.stack([_r2(y[validation], left[validation]), _r2(y[test], left[test])])
    step = np.zeros(y.shape[1], np.int64)
    for number in range(1, most_steps + 1):
        change = z.times(direction)
        length = _ratio(gradient, (change[train] ** 2).sum(axis=0), first)
        left -= length * change
        now = np.stack([_r2(y[validation], left[validation]), _r2(y[test], left[test])])
        better = now[0] > best[0]
        best, step = np.where(better, now, best), np.where(better, number, step)
        if (number - step >= patience).all():
            break
        new = z.transposed(left * train[:, None])
        square = _squares(new)
        turn = _ratio(square, gradient, first)
        direction = [g + turn * d for g, d in zip(new, direction, strict=True)]
        gradient = square
    return best[1], step


def _ratio(above: np.ndarray, below: np.ndarray, first: np.ndarray) -> np.ndarray:
    """above / below; 0 for a target that is solved, whose gradient is rounding."""
    going = (above > 1e-24 * first) & (below > 0)
    return np.where(going, above / np.where(going, below, 1.0), 0.0)


def _squares(blocks: Sequence[np.ndarray]) -> np.ndarray:
    return np.sum([(block**2).sum(axis=0) for block in blocks], axis=0)


def _r2(y: np.ndarray, error: np.ndarray) -> np.ndarray:
    return 1 - (error**2).sum(axis=0) / ((y - y.mean(axis=0)) ** 2).sum(axis=0)
