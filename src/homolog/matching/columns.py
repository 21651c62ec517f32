"""Features prepared for correlation: scaled, split by density, constants set aside.

A correlation does not change when a column is shifted or multiplied by a positive number, so each column is
put into the form in which float64 sums of its products lose nothing:

* a column active on at most `DENSE_DENSITY` of the tokens stays sparse and uncentred, multiplied by a power
  of two (exact) so that its largest value lies in [1/2, 1).  By Cauchy-Schwarz mean^2 <= density * E[x^2], so
  centring at the end, cov = E[xy] - mean_x mean_y, cancels at most a factor 1 / (1 - density);
* a column active more often becomes dense and standardised, z = (x - mean) / sd, centred twice in float64
  around its first value, then rounded to float32 (relative error 6e-8 an entry, so at most about 1e-7 in r);
* a column that takes one value only has no correlation: it is left out and stays NaN.

`DENSE_DENSITY` is measured: adding a multiple of a contiguous row of D dense columns costs about an eighth of
D scattered additions, and at d_sae 768 and 30 active features a token 1/8 was the fastest of 1/32 ... 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int

from homolog.errors import InputError
from homolog.matching.kernels import standardise

DENSE_DENSITY = 1 / 8
_CHUNK_BYTES = 64 << 20

ArrayLike = np.ndarray | torch.Tensor | scipy.sparse.sparray | scipy.sparse.spmatrix


@dataclass(frozen=True, eq=False)
class Columns:
    """The features of one side, ready for `max_pearson`; build it with `prepare`.

    `order` holds the original indices of the defined features, the dense ones first, then the sparse ones
    from frequent to rare; `mean`, `inverse_sd` (float64) and all column numbers below follow that order.
    """

    n_tokens: int
    n_features: int
    order: Int[np.ndarray, "defined"]  # int64
    mean: Float[np.ndarray, "defined"]
    inverse_sd: Float[np.ndarray, "defined"]
    dense: Float[np.ndarray, "token dense"]  # float32, C order
    indptr: Int[np.ndarray, "rows"]  # int64, rows = tokens + 1
    indices: Int[np.ndarray, "stored"]  # int32, 0 is the first sparse column
    data: Float[np.ndarray, "stored"]  # float32

    @property
    def n_dense(self) -> int:
        return self.dense.shape[1]

    @property
    def n_sparse(self) -> int:
        return len(self.order) - self.n_dense

    @cached_property
    def by_column(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The sparse part column by column: (indptr int64, token int32 ascending, value float32)."""
        csr = scipy.sparse.csr_array((self.data, self.indices, self.indptr), shape=(self.n_tokens, self.n_sparse))
        csc = csr.tocsc()
        return csc.indptr.astype(np.int64), csc.indices.astype(np.int32), csc.data

    @cached_property
    def position(self) -> Int[np.ndarray, "features"]:
        """Place of each original feature in `order`, -1 where it is constant."""
        position = np.full(self.n_features, -1, dtype=np.int64)
        position[self.order] = np.arange(len(self.order))
        return position


def prepare(x: ArrayLike | Columns, name: str = "a") -> Columns:
    """Columns of `x`, (tokens, features): scipy.sparse of any format, or a dense numpy or torch array.

    Preparing costs one pass; do it once for a matrix that meets several others.  `name` is what errors call
    it. Raises InputError when `x` is not two-dimensional, not real, or holds NaN or infinity.
    """
    if isinstance(x, Columns):
        return x
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        x = (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x).numpy()
    if scipy.sparse.issparse(x):
        return _prepare_sparse(x, name)
    x = np.asarray(x)
    _check_kind(x.ndim, x.dtype, x.shape, name)
    return _prepare_dense(x, name)


def _check_kind(ndim: int, dtype: np.dtype, shape: tuple[int, ...], name: str) -> None:
    if ndim != 2:
        raise InputError(
            f"shape of {name}",
            shape,
            "two axes are needed, (tokens, features)",
            "Reshape it, tokens first.",
        )
    if not (np.issubdtype(dtype, np.floating) or np.issubdtype(dtype, np.integer) or dtype == np.bool_):
        raise InputError(f"dtype of {name}", str(dtype), "correlations need real numbers", "Convert it to float32.")


def _refuse_non_finite(name: str, token: int, feature: int, value: Any) -> None:
    raise InputError(
        f"{name}[{token}, {feature}]",
        float(value),
        "features must be finite numbers",
        "Find where the activations overflow; mask the token or drop the feature.",
    )


def _prepare_sparse(x: Any, name: str) -> Columns:
    _check_kind(x.ndim, x.dtype, x.shape, name)
    csc: Any = scipy.sparse.csc_array(x)
    if not np.issubdtype(csc.dtype, np.floating):
        csc = csc.astype(np.float64)
    if not (csc.has_canonical_format and np.all(csc.data)):
        csc = csc.copy()
        csc.sum_duplicates()
        csc.eliminate_zeros()
    bad = np.flatnonzero(~np.isfinite(csc.data))
    if len(bad):
        feature = int(np.searchsorted(csc.indptr, bad[0], side="right")) - 1
        _refuse_non_finite(name, int(csc.indices[bad[0]]), feature, csc.data[bad[0]])
    count = np.diff(csc.indptr).astype(np.int64)
    return _split(csc.shape, count, lambda ids: csc[:, ids])


def _prepare_dense(x: np.ndarray, name: str) -> Columns:
    n_tokens, n_features = x.shape
    count = np.zeros(n_features, dtype=np.int64)
    rows = max(1, _CHUNK_BYTES // max(1, 8 * n_features))
    for start in range(0, n_tokens, rows):
        part = x[start : start + rows]
        finite = np.isfinite(part)
        if not finite.all():
            token, feature = np.argwhere(~finite)[0]
            _refuse_non_finite(name, start + int(token), int(feature), part[token, feature])
        count += np.count_nonzero(part, axis=0)
    everything = np.arange(n_features)
    return _split(x.shape, count, lambda ids: x if np.array_equal(ids, everything) else x[:, ids])


def _split(shape: tuple[int, ...], count: np.ndarray, take: Callable[[np.ndarray], Any]) -> Columns:
    """Columns from the number of non-zeros of each and `take(ids)`, which returns them, sparse or dense."""
    n_tokens, n_features = shape
    is_dense = count > DENSE_DENSITY * n_tokens
    dense_ids, dense, dense_mean, dense_inverse_sd = _standardise(take, np.flatnonzero(is_dense), n_tokens)
    sparse_ids = np.flatnonzero((count > 0) & ~is_dense)
    sparse_ids = sparse_ids[np.argsort(-count[sparse_ids], kind="stable")]
    csr, mean, inverse_sd = _scale(take, sparse_ids, n_tokens)
    return Columns(
        n_tokens=n_tokens,
        n_features=n_features,
        order=np.concatenate([dense_ids, sparse_ids]).astype(np.int64),
        mean=np.concatenate([dense_mean, mean]),
        inverse_sd=np.concatenate([dense_inverse_sd, inverse_sd]),
        dense=dense,
        indptr=csr.indptr.astype(np.int64),
        indices=csr.indices.astype(np.int32),
        data=csr.data,
    )


def _power_of_two(largest: np.ndarray) -> np.ndarray:
    """Exponent e such that largest / 2^e lies in [1/2, 1)."""
    return np.frexp(largest)[1]


def _standardise(take: Callable[[np.ndarray], Any], ids: np.ndarray, n_tokens: int):
    """(ids that vary, their standardised float32 columns, mean and 1/sd of those columns as rounded)."""
    part: Any = take(ids) if len(ids) else np.zeros((n_tokens, 0), dtype=np.float32)
    part = part.toarray() if scipy.sparse.issparse(part) else part
    part = np.ascontiguousarray(part, dtype=None if part.dtype in (np.float32, np.float64) else np.float64)
    out = np.empty(part.shape, dtype=np.float32)
    mean, inverse_sd = np.zeros(len(ids)), np.zeros(len(ids))
    varies = np.zeros(len(ids), dtype=np.bool_)
    if part.size:
        standardise(part, out, varies, mean, inverse_sd)
    if not varies.all():
        out = np.ascontiguousarray(out[:, varies])
    return ids[varies], out, mean[varies], inverse_sd[varies]


def _scale(take: Callable[[np.ndarray], Any], ids: np.ndarray, n_tokens: int):
    """(scaled float32 CSR of the sparse columns, their mean, their 1/sd)."""
    if not len(ids):
        empty = scipy.sparse.csr_array((n_tokens, 0), dtype=np.float32)
        return empty, np.zeros(0), np.zeros(0)
    part = take(ids)
    if not scipy.sparse.issparse(part):
        part = np.asarray(part, dtype=np.float64)
    csc = scipy.sparse.csc_array(part)
    largest = np.maximum.reduceat(np.abs(csc.data), csc.indptr[:-1])
    column = np.repeat(np.arange(len(ids)), np.diff(csc.indptr))
    values = np.ldexp(csc.data, -_power_of_two(largest)[column]).astype(np.float32)
    exact = values.astype(np.float64)
    mean = np.bincount(column, exact, minlength=len(ids)) / n_tokens
    variance = np.bincount(column, exact * exact, minlength=len(ids)) / n_tokens - mean * mean
    csr = scipy.sparse.csc_array((values, csc.indices, csc.indptr), shape=csc.shape).tocsr()
    csr.sort_indices()
    return csr, mean, 1 / np.sqrt(variance)
