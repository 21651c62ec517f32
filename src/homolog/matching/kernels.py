"""Compiled loops of the correlation engine (numba), one sparse kernel and the selection of the best.

Accumulators of one block of rows against all columns stay in the second-level cache; the entries of the block
come in token order, so the other side is read as a stream.  Products of float32 values are exact in float64,
sums are float64 in token order, so a result does not depend on the number of threads, and equal columns give
equal bits.

r is rounded to float32 before it is compared; among equal r the lowest original index wins.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

NO_INDEX = np.iinfo(np.int64).max  # loses every tie


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit with the compiled code cached on disk; without the cache where no folder can be written."""

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache function" not in str(error):
                raise
            return numba.njit(**options)(function)

    return functools.wraps(jit)(decorate)


@jit()
def insert(r, index, best_r, best_index):
    """Put (r, index) into the descending lists `best_r`, `best_index` of length k, if it belongs there."""
    last = len(best_r) - 1
    if r < best_r[last] or (r == best_r[last] and index >= best_index[last]):
        return
    place = last
    while place > 0 and (r > best_r[place - 1] or (r == best_r[place - 1] and index < best_index[place - 1])):
        best_r[place] = best_r[place - 1]
        best_index[place] = best_index[place - 1]
        place -= 1
    best_r[place] = r
    best_index[place] = index


@jit()
def pearson(product_sum, mean_a, mean_b, inverse_sd_a, inverse_sd_b, n_tokens):
    """r = (sum(x y) / n - mean_x mean_y) / (sd_x sd_y), kept within [-1, 1], rounded to float32."""
    r = (product_sum / n_tokens - mean_a * mean_b) * inverse_sd_a * inverse_sd_b
    return np.float32(min(1.0, max(-1.0, r)))


@jit(parallel=True)
def sweep(
    block_start, entry_token, entry_row, entry_value, row_mean, row_inverse_sd, row_id, block_rows,
    dense, indptr, indices, data, column_mean, column_inverse_sd, column_id,
    n_threads, row_r, row_index, column_r, column_index,
):  # fmt: skip
    """Correlate sparse rows, block by block, with all columns [dense | sparse] of the other side.

    Row c is row c // n_blocks of block c % n_blocks.  `row_r`, `row_index` (rows, k) are updated in place;
    `column_r`, `column_index` (threads, columns, k) hold what each thread saw.  Long because one task must
    hold accumulation and selection: what lies between them is never stored.
    """
    n_blocks = len(block_start) - 1
    n_tokens, n_dense = dense.shape
    n_columns = len(column_id)
    for thread in numba.prange(n_threads):
        sums = np.empty((block_rows, n_columns))
        for block in range(thread, n_blocks, n_threads):
            sums[:] = 0.0
            for entry in range(block_start[block], block_start[block + 1]):
                token = entry_token[entry]
                value = np.float64(entry_value[entry])
                row_sums = sums[entry_row[entry]]
                for column in range(n_dense):
                    row_sums[column] += value * np.float64(dense[token, column])
                for stored in range(indptr[token], indptr[token + 1]):
                    row_sums[n_dense + indices[stored]] += value * np.float64(data[stored])
            for local in range(block_rows):
                row = local * n_blocks + block
                if row >= len(row_id):
                    break
                for column in range(n_columns):
                    r = pearson(
                        sums[local, column], row_mean[row], column_mean[column],
                        row_inverse_sd[row], column_inverse_sd[column], n_tokens,
                    )  # fmt: skip
                    insert(r, column_id[column], row_r[row], row_index[row])
                    insert(r, row_id[row], column_r[thread, column], column_index[thread, column])


@jit(parallel=True)
def dense_products(x, y, sums):
    """sums[i, j] += sum over tokens of x[t, i] y[t, j], float64 in token order, eight rows at a time."""
    for stripe in numba.prange((x.shape[1] + 7) // 8):
        for token in range(x.shape[0]):
            for row in range(stripe * 8, min(stripe * 8 + 8, x.shape[1])):
                value = np.float64(x[token, row])
                for column in range(y.shape[1]):
                    sums[row, column] += value * np.float64(y[token, column])


@jit()
def select(
    sums, n_tokens,
    row_mean, row_inverse_sd, row_id, column_mean, column_inverse_sd, column_id,
    row_r, row_index, column_r, column_index,
):  # fmt: skip
    """Select the best of a block of product sums (rows, columns); (rows, k) and (columns, k) in place."""
    for row in range(sums.shape[0]):
        for column in range(sums.shape[1]):
            r = pearson(
                sums[row, column], row_mean[row], column_mean[column],
                row_inverse_sd[row], column_inverse_sd[column], n_tokens,
            )  # fmt: skip
            insert(r, column_id[column], row_r[row], row_index[row])
            insert(r, row_id[row], column_r[column], column_index[column])


@jit()
def merge(thread_r, thread_index, best_r, best_index):
    """Merge (threads, columns, k) lists into (columns, k), in place; the order of threads does not matter."""
    for thread in range(thread_r.shape[0]):
        for column in range(thread_r.shape[1]):
            for place in range(thread_r.shape[2]):
                if thread_index[thread, column, place] != NO_INDEX:
                    insert(
                        thread_r[thread, column, place], thread_index[thread, column, place],
                        best_r[column], best_index[column],
                    )  # fmt: skip


@jit()
def group_rows(indptr, indices, data, n_columns, n_blocks):
    """Entries of a CSR matrix grouped into blocks of its columns, token order kept (a stable counting sort).

    Column c goes to block c % n_blocks, where it is row c // n_blocks: with columns sorted by frequency,
    every block gets its share of the frequent ones.  Returns (block_start, entry_token, entry_row,
    entry_value).
    """
    block_start = np.zeros(n_blocks + 1, dtype=np.int64)
    block_of = np.empty(n_columns, dtype=np.int32)
    row_of = np.empty(n_columns, dtype=np.int32)
    for column in range(n_columns):
        block_of[column] = column % n_blocks
        row_of[column] = column // n_blocks
    for stored in range(len(indices)):
        block_start[block_of[indices[stored]] + 1] += 1
    for block in range(n_blocks):
        block_start[block + 1] += block_start[block]
    place = block_start[:-1].copy()
    entry_token = np.empty(len(indices), dtype=np.int32)
    entry_row = np.empty(len(indices), dtype=np.int32)
    entry_value = np.empty(len(indices), dtype=np.float32)
    for token in range(len(indptr) - 1):
        for stored in range(indptr[token], indptr[token + 1]):
            column = indices[stored]
            here = place[block_of[column]]
            place[block_of[column]] += 1
            entry_token[here] = token
            entry_row[here] = row_of[column]
            entry_value[here] = data[stored]
    return block_start, entry_token, entry_row, entry_value


@jit()
def standardise(x, z, varies, mean, inverse_sd):
    """z = (x - mean) / sd of every column, float32, with the mean and 1/sd that z has after rounding.

    x (tokens, columns) float32 or float64; z, varies, mean, inverse_sd are filled.  Each column is brought to
    magnitude 1 by a power of two and shifted by its first value (exact where it matters most: a large mean
    and a small spread), then centred twice.  A column of one value gets varies = False, z = 0.
    """
    n_tokens, n_columns = x.shape
    for stripe in range((n_columns + 63) // 64):
        lo, hi = stripe * 64, min(stripe * 64 + 64, n_columns)
        width = hi - lo
        scale, base, centre, rest = np.zeros(width), np.zeros(width), np.zeros(width), np.zeros(width)
        square = np.zeros(width)
        least, most = x[0, lo:hi].astype(np.float64), x[0, lo:hi].astype(np.float64)
        for t in range(n_tokens):
            for c in range(width):
                least[c] = min(least[c], x[t, lo + c])
                most[c] = max(most[c], x[t, lo + c])
        for c in range(width):
            varies[lo + c] = least[c] != most[c]
            largest = max(abs(least[c]), abs(most[c]))
            if largest > 0:
                scale[c] = math.ldexp(1.0, -max(math.frexp(largest)[1], -1000))
            base[c] = x[0, lo + c] * scale[c]
        for t in range(n_tokens):
            for c in range(width):
                centre[c] += x[t, lo + c] * scale[c] - base[c]
        centre /= n_tokens
        for t in range(n_tokens):
            for c in range(width):
                y = x[t, lo + c] * scale[c] - base[c] - centre[c]
                rest[c] += y
                square[c] += y * y
        rest /= n_tokens
        factor = np.zeros(width)
        for c in range(width):
            if varies[lo + c]:
                factor[c] = 1.0 / math.sqrt(square[c] / n_tokens - rest[c] * rest[c])
        total = np.zeros(width)
        square[:] = 0.0
        for t in range(n_tokens):
            for c in range(width):
                y = (x[t, lo + c] * scale[c] - base[c] - centre[c] - rest[c]) * factor[c]
                z[t, lo + c] = y
                rounded = np.float64(z[t, lo + c])
                total[c] += rounded
                square[c] += rounded * rounded
        for c in range(width):
            mean[lo + c] = total[c] / n_tokens
            if varies[lo + c]:
                inverse_sd[lo + c] = 1.0 / math.sqrt(square[c] / n_tokens - mean[lo + c] * mean[lo + c])


@jit()
def sparse_sums(ids, start, token, value, document, n_documents):
    """(sum of x, sum of x^2) by document, (ids, documents), of sparse columns."""
    first, second = np.zeros((len(ids), n_documents)), np.zeros((len(ids), n_documents))
    for place in range(len(ids)):
        for entry in range(start[ids[place]], start[ids[place] + 1]):
            x = np.float64(value[entry])
            first[place, document[token[entry]]] += x
            second[place, document[token[entry]]] += x * x
    return first, second


@jit()
def dense_sums(ids, dense, document, n_documents):
    """(sum of x, sum of x^2) by document, (ids, documents), of dense columns."""
    first, second = np.zeros((len(ids), n_documents)), np.zeros((len(ids), n_documents))
    stripes = (len(ids) + 63) // 64
    for stripe in range(stripes):
        for t in range(dense.shape[0]):
            for place in range(stripe * 64, min(stripe * 64 + 64, len(ids))):
                x = np.float64(dense[t, ids[place]])
                first[place, document[t]] += x
                second[place, document[t]] += x * x
    return first, second


@jit()
def sparse_by_sparse(ids_a, ids_b, start_a, token_a, value_a, start_b, token_b, value_b, document, n_documents):
    """Both token lists ascend: one merge of the two lists a pair."""
    out = np.zeros((len(ids_a), n_documents))
    for place in range(len(ids_a)):
        a, end_a = start_a[ids_a[place]], start_a[ids_a[place] + 1]
        b, end_b = start_b[ids_b[place]], start_b[ids_b[place] + 1]
        while a < end_a and b < end_b:
            if token_a[a] == token_b[b]:
                out[place, document[token_a[a]]] += np.float64(value_a[a]) * np.float64(value_b[b])
                a += 1
                b += 1
            elif token_a[a] < token_b[b]:
                a += 1
            else:
                b += 1
    return out


@jit()
def sparse_by_dense(ids_a, ids_b, start_a, token_a, value_a, dense_b, document, n_documents):
    out = np.zeros((len(ids_a), n_documents))
    for place in range(len(ids_a)):
        for entry in range(start_a[ids_a[place]], start_a[ids_a[place] + 1]):
            t = token_a[entry]
            out[place, document[t]] += np.float64(value_a[entry]) * np.float64(dense_b[t, ids_b[place]])
    return out


@jit()
def dense_by_dense(ids_a, ids_b, dense_a, dense_b, document, n_documents):
    out = np.zeros((len(ids_a), n_documents))
    stripes = (len(ids_a) + 63) // 64
    for stripe in range(stripes):
        for t in range(dense_a.shape[0]):
            for place in range(stripe * 64, min(stripe * 64 + 64, len(ids_a))):
                product = np.float64(dense_a[t, ids_a[place]]) * np.float64(dense_b[t, ids_b[place]])
                out[place, document[t]] += product
    return out
