"""Residuals of one model, mapped into the other's space, read by the other's dictionary.

X (tokens, d_source) and Y (tokens, d_target) are the residual streams after a block of each model
on the same tokens. On half of the documents a map y' = x M + c is fitted, in two ways, from means
and scatter matrices alone:

    orthogonal   M = s Q,  Q = U V' of the singular value decomposition U S V' of S_xy
                 [Schoenemann 1966],  s = tr(S) / tr(Q' S_xx Q): rotation, reflection, one scale
    affine       M = (S_xx + ridge tr(S_xx) / d I)^-1 S_xy: least squares

and on the other half, with D(.) the target's dictionary (encode, then decode) and |.|^2 summed over
tokens:

    r2             1 - |Y - Y'|^2    / |Y - mean(Y)|^2      how well the residual is predicted
    ev_own         1 - |Y - D(Y)|^2  / |Y - mean(Y)|^2      the dictionary on its own residuals
    ev_transplant  1 - |Y - D(Y')|^2 / |Y - mean(Y)|^2      what it rebuilds of Y from the source
    ev_mapped      1 - |Y' - D(Y')|^2 / |Y' - mean(Y')|^2   how far Y' is made of its features

ev_transplant is at most about r2, for D cannot know what the map lost; ev_mapped can be high for a
map that loses much.  Where d_source > d_target, Q has orthonormal columns and maximises tr(Q'
S_xy), which is then not quite least squares.  Tokens are those of the features: special tokens are
left out, and no others.

Schoenemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 1966.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from scipy.sparse import csr_array

from homolog.analyses.analysis import Tables
from homolog.analyses.material import Material
from homolog.analyses.residuals import residual_readers
from homolog.analyses.stream import column_correlations, split_documents
from homolog.dictionaries import SparseAutoencoder
from homolog.dictionaries.encoder import SparseEncoder
from homolog.dictionaries.variance import explained_variance
from homolog.errors import InputError
from homolog.matching.spaces import SpaceMoments
from homolog.record.comparisons import MAIN
from homolog.record.tables import LAYERS, TRANSPLANT
from homolog.threads import library_threads

RIDGE = 1e-4
Source = Float[torch.Tensor, "token d_source"]
Target = Float[torch.Tensor, "token d_target"]
Kind = Literal["orthogonal", "affine"]
KINDS: tuple[Kind, ...] = ("orthogonal", "affine")
_WHERE = ("model", "layer", "source_model", "source_layer")
TRANSPLANT_SCHEMA = TRANSPLANT.only(*(n for n in TRANSPLANT.columns if n not in _WHERE))


def measure_pair(material: Material, model: str, source: str) -> Tables:
    """Task: the dictionaries of `model` on residuals of the most similar layers of `source`."""
    read_own, read_source, document = residual_readers(material, model, source)
    parts = []
    for own, other in counterparts(material.table(LAYERS), model, source):
        y, x = read_own(own), read_source(other)
        dictionary = material.sae(model, own)
        rows = transplant(x, y, document, dictionary, seed=material.seed)
        where = dict(zip(_WHERE, (model, own, source, other), strict=True))
        placed = rows.with_columns(pl.lit(value).alias(name) for name, value in where.items())
        parts.append(placed.select(*TRANSPLANT.columns))
    return {TRANSPLANT.name: pl.concat(parts) if parts else TRANSPLANT.frame()}


def counterparts(layers: pl.DataFrame, model: str, source: str) -> list[tuple[int, int]]:
    """For each layer of `model` that of `source` with the highest CKA, or mean r where none has it.

    layers: the table of that name.
    """
    rows = layers.filter(comparison=MAIN.name, model=model, best_model=source)
    height = "cka" if rows["cka"].is_not_null().all() else "mean"
    highest = pl.col(height).fill_nan(-1)
    best = rows.sort("layer", highest, "best_layer", descending=[False, True, False])
    best = best.group_by("layer", maintain_order=True).first()
    return list(best.select("layer", "best_layer").iter_rows())


def similar_blocks(
    material: Material, a: str, b: str, asked: int | None, table: str
) -> tuple[int, int]:
    """A block of `a`, by default its middle one, and that of `b` most like it: of the highest CKA,
    or mean r where spaces were not compared.

    asked: the block that the recipe's table of that name asks for.
    """
    layers = material.layers(a)
    block = layers[len(layers) // 2] if asked is None else asked
    if block not in layers:
        requirement = f"{a} has dictionaries after {', '.join(map(str, layers))}"
        raise InputError(f"{table}.block", block, requirement, "Name one of these.")
    return block, dict(counterparts(material.table(LAYERS), a, b))[block]


@dataclass(frozen=True, eq=False)
class LinearMap:
    """y' = x weight + bias; both float64, (d_source, d_target) and (d_target,)."""

    weight: Float[torch.Tensor, "d_source d_target"]
    bias: Float[torch.Tensor, " d_target"]

    def __call__(self, x: Source) -> Target:
        """Mapped residuals in the dtype of x, computed in float64 at 4,096 tokens a time."""
        weight, bias = self.weight.to(x.device), self.bias.to(x.device)
        return torch.cat([(part.double() @ weight + bias).to(x.dtype) for part in x.split(4096)])


def fit_map(moments: SpaceMoments, kind: Kind, ridge: float = RIDGE) -> LinearMap:
    """The map from X, the moments' first space, to Y, their second.

    ridge: of the affine map, relative to the mean variance of a channel of X.  InputError: X is
    constant.
    """
    arrays = {name: torch.from_numpy(array) for name, array in moments.arrays().items()}
    s_xx, s_xy = arrays["scatter.0.0"], arrays["scatter.0.1"]
    mean_x, mean_y = arrays["mean.0"], arrays["mean.1"]
    spread = float(s_xx.trace())
    if not spread > 0:
        tokens, needed = f"{moments.n_tokens} tokens", "a map is fitted to residuals that vary"
        raise InputError("source residuals", tokens, needed, "Give more tokens.")
    with library_threads(1, "torch", "blas"):  # the last bits would follow their number
        if kind == "orthogonal":
            u, values, v = torch.linalg.svd(s_xy, full_matrices=False)
            turn = u @ v
            weight = turn * (values.sum() / ((s_xx @ turn) * turn).sum())
        else:
            penalty = ridge * spread / len(s_xx) * torch.eye(len(s_xx), dtype=s_xx.dtype)
            weight = torch.linalg.solve(s_xx + penalty, s_xy)
        return LinearMap(weight, mean_y - mean_x @ weight)


def transplant(
    x: Source,
    y: Target,
    document: np.ndarray,
    dictionary: SparseAutoencoder,
    *,
    seed: int = 0,
    ridge: float = RIDGE,
) -> pl.DataFrame:
    """The orthogonal and the affine map from x to y, read by y's dictionary: `TRANSPLANT_SCHEMA`.

    x, y: residuals of source and target, float32, row t of both is the same token, special tokens
    left out.
    document: (token,), of each.  seed: of the halves.  ridge: as in `fit_map`.
    feature_r_*: quartiles of the correlations, over test tokens, of each feature on y' with itself
    on y; n_features: those that vary on y there. A feature that is constant on y' counts as 0.
    Numbers are NaN where undefined: all of them where there are fewer than two documents, one to
    fit on and one to test on.
    Memory: three test halves in float64, and the features of two.
    """
    if not len(x) == len(y) == len(document):
        requirement = "row t of all three must be the same token"
        remedy = "Apply the same special-token mask to all."
        raise InputError("tokens", (len(x), len(y), len(document)), requirement, remedy)
    half = split_documents(document, (0.5, 0.5), seed)
    train, test = (torch.from_numpy(np.flatnonzero(half == part)) for part in (0, 1))
    if not (len(train) and len(test)):
        undefined = [
            (kind, len(train), len(test), *[np.nan] * 4, 0, *[np.nan] * 3) for kind in KINDS
        ]
        return pl.DataFrame(undefined, schema=TRANSPLANT_SCHEMA, orient="row")
    moments = SpaceMoments([x.shape[1]], [y.shape[1]])
    moments.add([x[train]], [y[train]])
    encoder = SparseEncoder(dictionary, device=y.device)
    y = y[test]
    own = encoder.encode(y)
    ev_own = explained_variance(y, _decode(dictionary, own, y))
    rows = []
    for kind in KINDS:
        mapped = fit_map(moments, kind, ridge=ridge)(x[test])
        features = encoder.encode(mapped)
        rebuilt = _decode(dictionary, features, y)
        r = feature_correlations(own, features)
        quartiles = np.quantile(r, (0.25, 0.5, 0.75)).tolist() if len(r) else [np.nan] * 3
        scores = (
            explained_variance(y, mapped),
            ev_own,
            explained_variance(y, rebuilt),
            explained_variance(mapped, rebuilt),
        )
        rows.append((kind, len(train), len(test), *scores, len(r), *quartiles))
    return pl.DataFrame(rows, schema=TRANSPLANT_SCHEMA, orient="row")


def _decode(dictionary: SparseAutoencoder, features: csr_array, like: torch.Tensor) -> Target:
    W_dec, b_dec = (part.detach().cpu().numpy() for part in (dictionary.W_dec, dictionary.b_dec))
    return torch.from_numpy(features @ W_dec + b_dec).to(like)


def feature_correlations(truth: csr_array, mapped: csr_array) -> Float[np.ndarray, " varying"]:
    """Pearson r of each varying column of `truth` with that of `mapped`; 0 where it is constant."""
    r = column_correlations(truth, mapped, constant=0.0)
    return r[~np.isnan(r)]
