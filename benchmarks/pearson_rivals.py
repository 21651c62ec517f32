"""The maximum Pearson correlation as others compute it, and the exact one of a few features.

`released` is the method of the code of [Wang 2025], in our words: chunk by chunk of tokens both
sides dense in bfloat16; of each chunk the sums, the sums of squares and the product of all features
with all, each rounded to bfloat16 and added to float32 totals; then, in blocks of features,

    r = (n S_xy - S_x S_y) / sqrt((n S_xx - S_x^2) (n S_yy - S_y^2))

and the maxima of the whole matrix, both ways.  There the dictionaries encode every chunk again for
every pair of layers; here all methods start from the same sparse features, and the encoding is not
counted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

CHUNK = 8192  # tokens; smaller ones are slower, for their sums are added to the totals more often
BLOCK = 1024  # features

Csr = Any  # scipy.sparse.csr_array (tokens, features)


@dataclass
class Maxima:
    """Best r of each feature of A, float64; seconds of each chunk of tokens, if there are any."""

    r: np.ndarray
    chunks: list[float] = field(default_factory=list)


def released(a: Csr, b: Csr, dtype: torch.dtype = torch.bfloat16) -> Maxima:
    """Dense raw moments; `dtype` of the features and of each chunk's sums."""
    totals = [torch.zeros(width) for width in (a.shape[1], a.shape[1], b.shape[1], b.shape[1])]
    product, seconds = torch.zeros(a.shape[1], b.shape[1]), []
    for start in range(0, a.shape[0], CHUNK):
        begun = time.perf_counter()
        x, y = (_dense(side[start : start + CHUNK], dtype) for side in (a, b))
        for total, values in zip(totals, (x, x**2, y, y**2), strict=True):
            total += values.sum(dim=0)
        product += x.T @ y
        seconds.append(time.perf_counter() - begun)
    n, (s_x, s_xx, s_y, s_yy) = a.shape[0], totals
    r = torch.empty_like(product)
    for row in torch.arange(a.shape[1]).split(BLOCK):
        for column in torch.arange(b.shape[1]).split(BLOCK):
            rows, columns = slice(row[0], row[-1] + 1), slice(column[0], column[-1] + 1)
            variances = torch.outer(
                n * s_xx[rows] - s_x[rows] ** 2,
                n * s_yy[columns] - s_y[columns] ** 2,
            )
            covariance = n * product[rows, columns] - torch.outer(s_x[rows], s_y[columns])
            r[rows, columns] = covariance / variances.sqrt().clamp(min=1e-12)
    best, _ = r.max(dim=1).values, r.max(dim=0).values  # both directions, as ours gives them
    return Maxima(best.double().numpy(), seconds)


def _dense(rows: Csr, dtype: torch.dtype) -> torch.Tensor:
    out = torch.zeros(rows.shape, dtype=dtype)
    token = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    where = torch.from_numpy(token * rows.shape[1] + rows.indices)
    out.view(-1)[where] = torch.from_numpy(rows.data).to(dtype)
    return out


def dense_float32(a: Csr, b: Csr) -> Maxima:
    """`released` with everything in float32."""
    return released(a, b, torch.float32)


def numpy_corrcoef(a: Csr, b: Csr) -> Maxima:
    """`numpy.corrcoef` of all features of both sides, float64."""
    r = np.corrcoef(a.toarray().T, b.toarray().T, dtype=np.float64)[: a.shape[1], a.shape[1] :]
    r.max(axis=0)
    return Maxima(r.max(axis=1))


def scipy_products(a: Csr, b: Csr) -> Maxima:
    """The products by scipy.sparse in float64, the rest as in the equation, on the whole matrix."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    r = _pearson((x.T @ y).toarray(), _moments(x), _moments(y), x.shape[0])
    r.max(axis=0)
    return Maxima(r.max(axis=1))


def exact_maxima(a: Csr, b: Csr, features: np.ndarray) -> np.ndarray:
    """Best r of some features of A among all of B, from sparse products in float64."""
    x = a[:, features].astype(np.float64)
    tokens = np.flatnonzero(np.diff(x.indptr))
    products = (x[tokens].T @ b[tokens].astype(np.float64)).toarray()
    return np.nanmax(_pearson(products, _moments(x), _moments(b), a.shape[0]), axis=1)


def _moments(x: Csr) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation) of each feature, float64."""
    value = x.data.astype(np.float64)
    mean, square = (
        np.bincount(x.indices, weight, x.shape[1]) / x.shape[0] for weight in (value, value * value)
    )
    return mean, np.sqrt(square - mean**2)


def _pearson(products: np.ndarray, x: tuple, y: tuple, n: int) -> np.ndarray:
    """r of all pairs, in the memory of the sums of products; NaN for features that never fire."""
    products /= n
    products -= np.outer(x[0], y[0])
    with np.errstate(invalid="ignore", divide="ignore"):
        products /= x[1][:, None]
        products /= y[1]
    return products
