"""Features prepared for correlation: scaled, split by density, constants set aside.

A correlation does not change when a column is shifted or multiplied by a positive number, so each
column is put into the form in which float64 sums of its products lose nothing:

* a column active on at most `DENSE_DENSITY` of the tokens stays sparse and uncentred, multiplied by
  a power of two (exact) so that its largest value lies in [1/2, 1).  By Cauchy-Schwarz mean^2 <=
  density * E[x^2], so centring at the end, cov = E[xy] - mean_x mean_y, cancels at most a factor
  1 / (1 - density);
* a column active more often becomes dense and standardised, z = (x - mean) / sd, centred twice in
  float64 around its first value, then rounded to float32 (relative error 6e-8 an entry, so at most
  about 1e-7 in r);
* a column that takes one value only has no correlation: it is left out and stays NaN.

The sparse part exists in two orders, each made when first asked for: `by_column` for the side whose
features are worked off one after the other, `packed` (token by token) for the side that is looked
up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int, UInt

from homolog.errors import InputError
from homolog.matching import column_kernels as kernels

DENSE_DENSITY = 1 / 8
_CHUNK_BYTES = 64 << 20

ArrayLike = np.ndarray | torch.Tensor | scipy.sparse.sparray | scipy.sparse.spmatrix


def one_hot(ids: Int[np.ndarray, "row"], n_columns: int) -> scipy.sparse.csr_array:
    """One column per id: 1 where it stands, else 0; float32 (rows, n_columns)."""
    start, ones = np.arange(len(ids) + 1), np.ones(len(ids), np.float32)
    return scipy.sparse.csr_array((ones, ids, start), shape=(len(ids), n_columns))


class SparseEntries(NamedTuple):
    """Sparse entries column by column, or token by token, numbers ascending within each.

    Column k has the values value[start[k] : start[k + 1]] on the tokens number[the same]; by token,
    the other way round.  start: int64; number: int32; value: float32.
    """

    start: np.ndarray
    number: np.ndarray
    value: np.ndarray


class Packed(NamedTuple):
    """Sparse entries token by token, values and column numbers of a token side by side in memory.

    Token t has length[t] entries; its values are values[start[t] : start[t] + length[t]], and their
    column numbers follow directly: numbers[per_word * (start[t] + length[t]) :].  `numbers` is the
    same memory read as uint16 (two in the room of a value; uint32 from 65,536 columns on), so that
    a token costs as few cache lines as possible.
    """

    start: Int[np.ndarray, "token"]  # int64
    length: Int[np.ndarray, "token"]  # int32
    values: Float[np.ndarray, "words"]  # float32
    numbers: UInt[np.ndarray, "halves"]
    per_word: int

    def reordered(self, rows: np.ndarray) -> Packed:
        """Token t is what token rows[t] was."""
        return self._replace(start=self.start[rows], length=self.length[rows])

    def by_token(self) -> SparseEntries:
        """A plain copy."""
        start = np.concatenate([[0], np.cumsum(self.length)]).astype(np.int64)
        entry = np.arange(start[-1]) - np.repeat(start[:-1], self.length)
        first = np.repeat(self.start, self.length)
        number = (first + np.repeat(self.length, self.length)) * self.per_word + entry
        return SparseEntries(
            start, self.numbers[number].astype(np.int32), self.values[first + entry]
        )


@dataclass(frozen=True, eq=False)
class GivenEntries:
    """Sparse columns where the user keeps them: CSR, and what each column becomes.

    number: int32, place of each column among the sparse ones, -1 where it is left out.  factor: the
    power of two of each sparse column.  start: int64, entries before each sparse column.
    """

    csr: Any
    number: Int[np.ndarray, "column"]
    factor: Float[np.ndarray, "sparse"]
    start: Int[np.ndarray, "rows"]

    @cached_property
    def packed(self) -> Packed:
        csr, number = self.csr, self.number
        length = kernels.row_lengths(csr.indptr, csr.indices, number)
        per_word = 2 if len(self.factor) <= 1 << 16 else 1
        end = np.cumsum(length + -(-length // per_word), dtype=np.int64)
        values = np.zeros(int(end[-1]) if len(end) else 0, dtype=np.float32)
        numbers = values.view(np.uint16 if per_word == 2 else np.uint32)
        start = np.concatenate([[0], end[:-1]]).astype(np.int64)
        given = csr.indptr, csr.indices, csr.data, number, self.factor
        kernels.pack(*given, start, values, numbers, per_word)
        return Packed(start, length, values, numbers, per_word)

    @cached_property
    def by_column(self) -> SparseEntries:
        csr, start = self.csr, self.start
        given = csr.indptr, csr.indices, csr.data, self.number, self.factor
        return SparseEntries(start, *kernels.by_column(*given, start))


@dataclass(frozen=True, eq=False)
class StoredEntries:
    """Sparse columns read from files, in one order or in both; the other cannot be made."""

    by_column: SparseEntries | None = None
    packed: Packed | None = None


@dataclass(frozen=True, eq=False)
class ReorderedEntries:
    """The sparse part of other columns with token t holding what token rows[t] held there."""

    plain: Columns
    rows: Int[np.ndarray, "token"]

    @cached_property
    def packed(self) -> Packed:
        return self.plain.packed.reordered(self.rows)

    @cached_property
    def by_column(self) -> SparseEntries:
        start, token, value = self.plain.by_column
        place = np.argsort(self.rows).astype(np.int32)
        return SparseEntries(start, *kernels.move_tokens(start, token, value, place))


@dataclass(frozen=True, eq=False)
class Columns:
    """The features of one side, ready for `max_pearson`; build it with `prepare`.

    `order` holds the original indices of the defined features, the dense ones first, then the
    sparse ones from frequent to rare; `mean`, `inverse_sd` (float64) and all column numbers below
    follow that order.
    """

    n_tokens: int
    n_features: int
    order: Int[np.ndarray, "defined"]  # int64
    mean: Float[np.ndarray, "defined"]
    inverse_sd: Float[np.ndarray, "defined"]
    dense: Float[np.ndarray, "token dense"]  # float32, C order
    entries: GivenEntries | StoredEntries | ReorderedEntries

    @property
    def n_dense(self) -> int:
        return self.dense.shape[1]

    @property
    def n_sparse(self) -> int:
        return len(self.order) - self.n_dense

    @property
    def packed(self) -> Packed:
        """The sparse part token by token."""
        packed = self.entries.packed
        assert packed is not None, "only the order by column was read"
        return packed

    @property
    def by_column(self) -> SparseEntries:
        """The sparse part column by column."""
        by_column = self.entries.by_column
        assert by_column is not None, "only the order by token was read"
        return by_column

    @cached_property
    def position(self) -> Int[np.ndarray, "features"]:
        """Place of each original feature in `order`, -1 where it is constant."""
        position = np.full(self.n_features, -1, dtype=np.int64)
        position[self.order] = np.arange(len(self.order))
        return position

    @property
    def n_bytes(self) -> int:
        """Memory of the dense columns and of the entries, in whatever orders there are."""
        arrays, made = [self.dense], vars(self.entries)
        if isinstance(self.entries, GivenEntries):
            arrays += [self.entries.csr.indices, self.entries.csr.data]
        if (packed := made.get("packed")) is not None:
            arrays.append(packed.values)
        arrays += made.get("by_column") or ()
        return sum(array.nbytes for array in arrays)

    def reordered(self, rows: np.ndarray) -> Columns:
        """These columns with token t holding what token rows[t] held; rows: each token once.

        Means and deviations stay, and the packed entries are shared: it costs no new preparation.
        """
        plain = self
        if isinstance(self.entries, ReorderedEntries):
            plain, rows = self.entries.plain, self.entries.rows[rows]
        return replace(plain, dense=plain.dense[rows], entries=ReorderedEntries(plain, rows))


def prepare(x: ArrayLike | Columns, name: str = "a") -> Columns:
    """Columns of `x`, (tokens, features): scipy.sparse of any format, or dense numpy or torch.

    Preparing costs a few passes; do it once for a matrix that meets several others.  `name` is what
    errors call it.  A float CSR matrix is referred to, not copied: do not change it while the
    columns are in use.  Raises InputError when `x` is not two-dimensional, not real, or holds NaN
    or infinity.
    """
    if isinstance(x, Columns):
        return x
    matrix = as_matrix(x, name)
    is_sparse = scipy.sparse.issparse(matrix)
    return _prepare_sparse(matrix, name) if is_sparse else _prepare_dense(matrix, name)


def as_matrix(x: ArrayLike, name: str) -> Any:
    """`x` as scipy.sparse or numpy, two-dimensional and of real numbers: see `prepare`."""
    if isinstance(x, torch.Tensor):
        x = _from_torch(x.detach().cpu())
    matrix: Any = x if scipy.sparse.issparse(x) else np.asarray(x)
    if len(matrix.shape) != 2:
        requirement = "two axes are needed, (tokens, features)"
        remedy = "Reshape it, tokens first."
        raise InputError(f"shape of {name}", tuple(matrix.shape), requirement, remedy)
    real = (np.bool_, np.floating, np.integer)
    if not any(np.issubdtype(matrix.dtype, kind) for kind in real):
        requirement = "correlations need real numbers"
        remedy = "Convert it to float32."
        raise InputError(f"dtype of {name}", str(matrix.dtype), requirement, remedy)
    return matrix


def _from_torch(x: torch.Tensor) -> Any:
    """numpy of a dense tensor, scipy.sparse of a sparse one of any layout."""
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    if x.layout is torch.strided:
        return x.numpy()
    entries = x.to_sparse_coo().coalesce()
    place = entries.indices().numpy()
    return scipy.sparse.coo_array((entries.values().numpy(), tuple(place)), shape=tuple(x.shape))


def _refuse_non_finite(name: str, token: int, feature: int, value: Any) -> None:
    requirement = "features must be finite numbers"
    remedy = "Find where the activations overflow; mask the token or drop the feature."
    raise InputError(f"{name}[{token}, {feature}]", float(value), requirement, remedy)


def _prepare_sparse(x: Any, name: str) -> Columns:
    csr: Any = scipy.sparse.csr_array(x)
    if csr.dtype not in (np.float32, np.float64):
        csr = csr.astype(np.float64)
    if not (csr.has_canonical_format and np.all(csr.data)):
        csr = csr.copy()
        csr.sum_duplicates()
        csr.eliminate_zeros()
    count, largest, bad = kernels.column_extent(csr.indices, csr.data, csr.shape[1])
    if bad >= 0:
        token = int(np.searchsorted(csr.indptr, bad, side="right")) - 1
        _refuse_non_finite(name, token, int(csr.indices[bad]), csr.data[bad])

    def take(ids: np.ndarray) -> np.ndarray:
        place = np.full(csr.shape[1], -1, dtype=np.int32)
        place[ids] = np.arange(len(ids))
        out = np.zeros((csr.shape[0], len(ids)), dtype=csr.dtype)
        kernels.fill_dense(csr.indptr, csr.indices, csr.data, place, out)
        return out

    dense_ids, sparse_ids = _split(count, csr.shape[0])
    number = np.full(csr.shape[1], -1, dtype=np.int32)
    number[sparse_ids] = np.arange(len(sparse_ids))
    dense = _standardise(take, dense_ids, csr.shape[0])
    count, largest = count[sparse_ids], largest[sparse_ids]
    return _columns(csr.shape, dense, sparse_ids, csr, number, count, largest)


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
    dense_ids, sparse_ids = _split(count, n_tokens)
    csr: Any = scipy.sparse.csr_array(np.asarray(x[:, sparse_ids], dtype=np.float64))
    largest = np.zeros(0)
    if len(sparse_ids) and n_tokens:
        largest = np.abs(csr).max(axis=0).toarray().reshape(-1)
    dense = _standardise(lambda ids: x[:, ids], dense_ids, n_tokens)
    number = np.arange(len(sparse_ids), dtype=np.int32)
    return _columns(x.shape, dense, sparse_ids, csr, number, count[sparse_ids], largest)


def _split(count: np.ndarray, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(dense columns, sparse columns from frequent to rare); empty ones in neither."""
    is_dense = count > DENSE_DENSITY * n_tokens
    sparse_ids = np.flatnonzero((count > 0) & ~is_dense)
    return np.flatnonzero(is_dense), sparse_ids[np.argsort(-count[sparse_ids], kind="stable")]


def _columns(
    shape: tuple[int, ...],
    dense_part: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    sparse_ids: np.ndarray,
    csr: Any,
    number: np.ndarray,
    count: np.ndarray,
    largest: np.ndarray,
) -> Columns:
    """Columns: what `_standardise` made of the dense ones, and those of `csr` with a number."""
    n_tokens, n_features = shape
    dense_ids, dense, dense_mean, dense_inverse_sd = dense_part
    factor = np.ldexp(1.0, -np.clip(np.frexp(largest)[1], -1000, 1000))
    first, second = kernels.column_sums(csr.indices, csr.data, number, factor, len(sparse_ids))
    mean = first / max(1, n_tokens)
    variance = second / max(1, n_tokens) - mean * mean
    start = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    return Columns(
        n_tokens=n_tokens,
        n_features=n_features,
        order=np.concatenate([dense_ids, sparse_ids]).astype(np.int64),
        mean=np.concatenate([dense_mean, mean]),
        inverse_sd=np.concatenate([dense_inverse_sd, 1 / np.sqrt(variance)]),
        dense=dense,
        entries=GivenEntries(csr, number, factor, start),
    )


def _standardise(
    take: Callable[[np.ndarray], np.ndarray], ids: np.ndarray, n_tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ids that vary, their standardised float32 columns, mean and 1/sd of those as rounded."""
    out = np.empty((n_tokens, len(ids)), dtype=np.float32)
    mean, inverse_sd = np.zeros(len(ids)), np.zeros(len(ids))
    varies = np.zeros(len(ids), dtype=np.bool_)
    at_once = max(1, _CHUNK_BYTES // max(1, 8 * n_tokens))
    for lo in range(0, len(ids), at_once):
        here = slice(lo, lo + at_once)
        part = np.asarray(take(ids[here]))
        kind = part.dtype if part.dtype in (np.float32, np.float64) else np.float64
        part = np.ascontiguousarray(part, dtype=kind)
        if part.size:
            kernels.standardise(part, out[:, here], varies[here], mean[here], inverse_sd[here])
    if not varies.all():
        out = np.ascontiguousarray(out[:, varies])
    return ids[varies], out, mean[varies], inverse_sd[varies]
