"""Compiled loops of the correlation engine (numba): sparse kernel, dense products, selection.

The accumulators of one row against all columns stay in the second-level cache.  Products of float32
values are exact in float64, sums are float64 in an order that does not depend on the number of
threads, so neither does a result, and equal columns give equal bits.

r is rounded to float32 before it is compared; among equal r the lowest original index wins.

Compiled functions take their arrays one by one, which makes signatures and calls long.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from homolog.compiled import jit

NO_INDEX = np.iinfo(np.int64).max  # loses every tie
AHEAD = 8  # entries between the request for a row and its use
STRIP = 256  # columns looked at together for a new best
SEGMENTS = 8  # runs of tokens of `packed_by_dense_sums`: fixed, lest sums depend on threads


@jit()
def insert(r, index, best_r, best_index):
    """Put (r, index) into the descending lists `best_r`, `best_index`, if it belongs there."""
    last = len(best_r) - 1
    if r < best_r[last] or (r == best_r[last] and index >= best_index[last]):
        return
    place = last
    while place > 0 and (
        r > best_r[place - 1] or (r == best_r[place - 1] and index < best_index[place - 1])
    ):
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


def _prefetch(typing_context, array, index):  # type: ignore[no-untyped-def]
    """Ask for the cache line of array[index]; never faults, wherever it points."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        place = builder.bitcast(builder.gep(made.data, [arguments[1]]), byte)
        read, keep, data = (word(number) for number in (0, 3, 1))
        builder.call(function, [place, read, keep, data])
        return context.get_dummy_value()

    return types.void(array, index), codegen


prefetch: Any = intrinsic(_prefetch)


@jit()
def accumulate(lo, hi, row_token, row_value, start, length, values, numbers, per_word, sums):
    """sums[c] += x y for the entries (token, x) lo ... hi of a row and the packed (c, y) there.

    Rows of the other side lie anywhere in memory: each is asked for `AHEAD` entries before it is
    needed.  Unsigned numbers, because a signed index costs a test for being negative.
    """
    for entry in range(np.uint64(lo), np.uint64(hi)):
        later = entry + np.uint64(AHEAD)
        if later < np.uint64(hi):
            token = np.uint64(row_token[later])
            word = np.uint64(start[token])
            n = np.uint64(length[token])
            end = word + n + n // np.uint64(per_word) + np.uint64(15)
            while word < end:
                prefetch(values, word)
                word += np.uint64(16)
            later += np.uint64(AHEAD)
            if later < np.uint64(hi):
                prefetch(start, np.uint64(row_token[later]))
                prefetch(length, np.uint64(row_token[later]))
        token = np.uint64(row_token[entry])
        x = np.float64(row_value[entry])
        first, n = np.uint64(start[token]), np.uint64(length[token])
        number = (first + n) * np.uint64(per_word)
        for stored in range(n):
            sums[np.uint64(numbers[number + stored])] += x * np.float64(values[first + stored])


@jit(parallel=True)
def sparse_by_sparse_best(
    row_start,
    row_token,
    row_value,
    row_mean,
    row_inverse_sd,
    row_id,
    start,
    length,
    values,
    numbers,
    per_word,
    column_mean,
    column_inverse_sd,
    column_id,
    n_tokens,
    n_threads,
    row_r,
    row_index,
    column_r,
    column_index,
):
    """Correlate sparse rows, one after the other, with all sparse columns of the other side.

    The accumulators of one row stay in the second-level cache.  `row_r`, `row_index` (rows, k) are
    updated in place; `column_r`, `column_index` (threads, columns, k) hold what each thread saw.
    """
    n_columns, k = len(column_id), row_r.shape[1]
    for thread in numba.prange(n_threads):
        sums, r = np.zeros(n_columns), np.empty(n_columns, dtype=np.float32)
        # column_r[thread, :, k - 1], contiguous
        least = np.full(n_columns, -np.inf, dtype=np.float32)
        for row in range(thread, len(row_id), n_threads):
            accumulate(
                row_start[row],
                row_start[row + 1],
                row_token,
                row_value,
                start,
                length,
                values,
                numbers,
                per_word,
                sums,
            )
            mean, inverse_sd = row_mean[row], row_inverse_sd[row]
            for first in range(0, n_columns, STRIP):
                last = min(first + STRIP, n_columns)
                row_least, news = row_r[row, k - 1], 0
                for column in range(first, last):
                    value = (sums[column] / n_tokens - mean * column_mean[column]) * inverse_sd
                    r[column] = min(1.0, max(-1.0, value * column_inverse_sd[column]))
                    sums[column] = 0.0
                    news += (r[column] >= row_least) | (r[column] >= least[column])
                if news == 0:
                    continue
                for column in range(first, last):
                    insert(r[column], column_id[column], row_r[row], row_index[row])
                    if r[column] >= least[column]:
                        insert(
                            r[column],
                            row_id[row],
                            column_r[thread, column],
                            column_index[thread, column],
                        )
                        least[column] = column_r[thread, column, k - 1]


@jit(parallel=True)
def sparse_by_dense_sums(row_start, row_token, row_value, dense, n_threads):
    """Sum over tokens of x y, float64 (rows, columns), of sparse rows and dense columns.

    The rows are given column by column (`Columns.by_column`).
    """
    n_rows, n_columns = len(row_start) - 1, dense.shape[1]
    sums = np.zeros((n_rows, n_columns))
    for thread in numba.prange(n_threads):
        for row in range(thread, n_rows, n_threads):
            own = sums[row]
            for entry in range(row_start[row], row_start[row + 1]):
                later = entry + AHEAD
                if later < row_start[row + 1]:
                    prefetch(dense[row_token[later]], np.uint64(0))
                token, x = row_token[entry], np.float64(row_value[entry])
                for column in range(n_columns):
                    own[column] += x * np.float64(dense[token, column])
    return sums


@jit(parallel=True)
def packed_by_dense_sums(start, length, values, numbers, per_word, n_rows, dense):
    """The same of sparse rows given token by token, in `SEGMENTS` runs, added up in order."""
    n_tokens, n_columns = dense.shape
    parts = np.zeros((SEGMENTS, n_rows, n_columns))
    for segment in numba.prange(SEGMENTS):
        sums = parts[segment]
        for token in range(segment * n_tokens // SEGMENTS, (segment + 1) * n_tokens // SEGMENTS):
            first = start[token]
            number = (first + length[token]) * per_word
            for stored in range(length[token]):
                y, own = np.float64(values[first + stored]), sums[numbers[number + stored]]
                for column in range(n_columns):
                    own[column] += y * np.float64(dense[token, column])
    for segment in range(1, SEGMENTS):
        parts[0] += parts[segment]
    return parts[0]


@jit(parallel=True)
def dense_products(x, y, sums):
    """sums[i, j] += sum over tokens of x[t, i] y[t, j], float64, in order, eight rows at a time."""
    for stripe in numba.prange((x.shape[1] + 7) // 8):
        for token in range(x.shape[0]):
            for row in range(stripe * 8, min(stripe * 8 + 8, x.shape[1])):
                value = np.float64(x[token, row])
                for column in range(y.shape[1]):
                    sums[row, column] += value * np.float64(y[token, column])


@jit()
def select(
    sums,
    n_tokens,
    row_mean,
    row_inverse_sd,
    row_id,
    column_mean,
    column_inverse_sd,
    column_id,
    row_r,
    row_index,
    column_r,
    column_index,
):
    """Select the best of a block of product sums; (rows, k) and (columns, k) in place."""
    for row in range(sums.shape[0]):
        for column in range(sums.shape[1]):
            r = pearson(
                sums[row, column],
                row_mean[row],
                column_mean[column],
                row_inverse_sd[row],
                column_inverse_sd[column],
                n_tokens,
            )
            insert(r, column_id[column], row_r[row], row_index[row])
            insert(r, row_id[row], column_r[column], column_index[column])


@jit()
def merge(thread_r, thread_index, best_r, best_index):
    """Merge (threads, columns, k) lists into (columns, k), in place, in any order of threads."""
    for thread in range(thread_r.shape[0]):
        for column in range(thread_r.shape[1]):
            for place in range(thread_r.shape[2]):
                if thread_index[thread, column, place] != NO_INDEX:
                    insert(
                        thread_r[thread, column, place],
                        thread_index[thread, column, place],
                        best_r[column],
                        best_index[column],
                    )
