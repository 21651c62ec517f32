"""Is a feature without homolog really exclusive, or spread over several features of the other
model?

A feature y is regressed on all features of all layers of the other model, X (tokens, features):

    min_w |y - mean(y) - Z w|^2,    Z = X centred and divided by its standard deviations, on the training documents

by conjugate gradients (CGLS [Bjoerck 1996, section 7.4]), whose step number is the regularisation:
early steps only use directions of large variance, and later ones fit noise, as a falling ridge
penalty would [Hansen 1998, chapter 6]. The number of steps is the one that is best on validation
documents, and the result is

    exclusive_r2 = 1 - sum (y - y')^2 / sum (y - mean(y))^2        on test documents, half of all, used for nothing else

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

from homolog.errors import InputError
from homolog.features import SparseFeatures, check_same_stream
from homolog.matching.intervals import HIGH_MATCH

TRAIN, VALIDATION, TEST = 0, 1, 2
SHARES = (0.4, 0.1, 0.5)
_TARGETS_AT_ONCE = 32

LISTS_SCHEMA = {
    "list": pl.String,
    "rank": pl.Int32,
    "model": pl.String,
    "layer": pl.Int32,
    "feature": pl.Int32,
    "freq": pl.Float64,
    "r": pl.Float32,
    "best_model": pl.String,
    "best_layer": pl.Int32,
    "best_feature": pl.Int32,
    "own_seed_r": pl.Float32,
}


def lists(
    matches: pl.DataFrame, saes: pl.DataFrame, *, least_freq: float = 1e-3, most: int = 100
) -> pl.DataFrame:
    """The best shared and the exclusive features of every ordered pair of compared models, at most
    `most` each.

    shared     features with a homolog that is mutual, highest r first
    exclusive  features without homolog and with r < 0.7 that are frequent (freq >= least_freq) and well reconstructed:
               the dictionary of their layer passed its gates, and a dictionary of another seed has
               the feature as well (own_seed_r >= 0.7; where the study did not run "sae-seed", the
               gates alone decide); lowest r first
    A feature without homolog but with a higher r is neither: both models have it, and so has a
    control.
    matches, saes: the tables of a run.  Returns a table of `LISTS_SCHEMA`; rank counts from 1;
    own_seed_r is null where not measured.  Raises InputError when the study has no verdict on
    single features.
    """
    main = matches.filter(
        (pl.col("comparison") == "main")
        & pl.col("homolog").is_not_null()
        & pl.col("r").is_not_nan()
    )
    if main.is_empty():
        raise InputError(
            "matches",
            "no feature is judged",
            "shared and exclusive features need the null and the gates",
            "Run the study with its null.",
        )
    keys = ["model", "layer", "feature"]
    seeds = matches.filter((pl.col("comparison") == "sae-seed") & pl.col("r").is_not_nan())
    seeds = seeds.group_by(keys).agg(own_seed_r=pl.col("r").max())
    good = saes.filter((pl.col("label") == "sae") & pl.col("passed")).select(
        "model", pl.col("layer").cast(pl.Int32)
    )
    rows = main.join(seeds, on=keys, how="left", maintain_order="left")
    passed = rows.join(good, on=["model", "layer"], how="semi", maintain_order="left")
    learnt = pl.lit(seeds.is_empty()) | (pl.col("own_seed_r") >= HIGH_MATCH)
    alone = (
        ~pl.col("homolog") & (pl.col("r") < HIGH_MATCH) & (pl.col("freq") >= least_freq) & learnt
    )
    found = {
        "shared": rows.filter(pl.col("homolog") & pl.col("mutual")).sort(
            "r", *keys, descending=[True, *[False] * 3]
        ),
        "exclusive": passed.filter(alone).sort("r", *keys),
    }
    parts = []
    for pair in (
        main.select("model", "best_model").unique(maintain_order=True).iter_rows(named=True)
    ):
        for name, table in found.items():
            own = table.filter(*(pl.col(key) == value for key, value in pair.items())).head(most)
            own = own.with_columns(
                list=pl.lit(name), rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32)
            )
            parts.append(own.select(*LISTS_SCHEMA).cast(LISTS_SCHEMA))  # type: ignore[arg-type]
    return pl.concat(parts)


def split_documents(
    document: Int[np.ndarray, " token"], shares: Sequence[float] = SHARES, seed: int = 0
) -> Int[np.ndarray, " token"]:
    """For every token the part, 0, 1, ..., of its document.

    Documents stand in random order; each goes where its middle falls when the tokens are cut in
    these shares, so that the parts are alike in tokens however unlike documents are in length.
    """
    _, number, size = np.unique(document, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(size))
    middle = (np.cumsum(size[order]) - size[order] / 2) / max(1, len(document))
    part = np.empty(len(size), np.int64)
    part[order] = np.searchsorted(np.cumsum(shares)[:-1], middle, side="right")
    return part[number]


def exclusive_r2(
    features: pl.DataFrame,
    own: Sequence[SparseFeatures],
    others: Sequence[SparseFeatures],
    *,
    seed: int = 0,
    most_steps: int = 100,
    patience: int = 8,
) -> pl.DataFrame:
    """The rows of `features` with `exclusive_r2` (Float32) and `steps` (Int32) after it.

    features: columns layer and feature of one model. own: its layers, at least those asked for.
    others: all layers of the other model, on the same stream. seed: of the split by documents.
    patience: steps without a gain on the validation documents after which a feature is finished.
    exclusive_r2 is NaN where the feature, or the number of documents, leaves nothing to fit or to
    test; then steps is 0.
    Memory: 5 x 32 columns of float64 over the tokens, and 4 x 32 over the features of `others`,
    besides the features.
    """
    if not others:
        raise InputError(
            "others",
            0,
            "the regression needs the features of the other model",
            "Give all its layers.",
        )
    check_same_stream([*others, *own])
    columns, part = _columns(features, own), split_documents(others[0].document, seed=seed)
    scores, steps = [np.empty(0)], [np.empty(0, np.int64)]
    for start in range(0, len(features), _TARGETS_AT_ONCE):
        block = columns[:, start : start + _TARGETS_AT_ONCE].toarray().astype(np.float64)
        score, best = regress(
            block,
            [other.matrix for other in others],
            part,
            most_steps=most_steps,
            patience=patience,
        )
        scores.append(score)
        steps.append(best)
    return features.with_columns(
        exclusive_r2=pl.Series(np.concatenate(scores).astype(np.float32)),
        steps=pl.Series(np.concatenate(steps).astype(np.int32)),
    )


def _columns(features: pl.DataFrame, own: Sequence[SparseFeatures]) -> csr_array:
    """The asked columns, (tokens, rows of `features`), in their order."""
    layers, parts, order = {side.layer: side.matrix for side in own}, [], [np.empty(0, np.int64)]
    for (layer,), rows in features.with_row_index("at").group_by("layer", maintain_order=True):
        if layer not in layers:
            raise InputError(
                "layer",
                layer,
                f"the layers given are {sorted(layers)}",
                "Give that layer's features.",
            )
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
    """(R^2 on the test tokens, CGLS steps) of each target, at the step that is best on the
    validation tokens.

    y: float64.  blocks: the regressors, CSR (tokens, features) each, side by side.  part: `TRAIN`,
    `VALIDATION` or `TEST` for every token.  Step 0 predicts the mean.  NaN and 0 where y is
    constant on one of the three parts.
    """
    is_part = [part == name for name in (TRAIN, VALIDATION, TEST)]
    defined = np.array(
        [
            np.ptp(y[rows], axis=0) > 0 if rows.any() else np.zeros(y.shape[1], bool)
            for rows in is_part
        ]
    )
    defined = defined.all(axis=0)
    score, step = np.full(y.shape[1], np.nan), np.zeros(y.shape[1], np.int64)
    if defined.any():
        score[defined], step[defined] = _cgls(
            y[:, defined], Standardised(blocks, is_part[TRAIN]), is_part, most_steps, patience
        )
    return score, step


class Standardised:
    """Z of the module's opening as two products, over regressors that stay sparse and in their
    blocks.
    """

    def __init__(self, blocks: Sequence[csr_array], train: np.ndarray) -> None:
        self.blocks, self.n_tokens = blocks, len(train)
        n, rows = int(train.sum()), train.astype(np.float64)
        self.mean, self.scale = [], []
        for x in blocks:
            mean = (x.T @ rows) / n
            square = (
                csr_array((x.data.astype(np.float64) ** 2, x.indices, x.indptr), shape=x.shape).T
                @ rows
            ) / n
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
    y, z: Standardised, is_part, most_steps: int, patience: int
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
