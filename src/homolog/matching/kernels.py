"""Compiled loops of the correlation engine (numba): sparse kernel, dense products, selection.

The accumulators of one row against all columns stay in the second-level cache.  Products of float32
values are exact in float64, sums are float64 in an order that does not depend on the number of
threads, so neither does a result, and equal columns give equal bits.

r is rounded to float32 before it is compared; among equal r the lowest original index wins.

Arrays that belong together come as one named tuple: `columns.SparseEntries` and `columns.Packed`
(the sparse part of a side by column and by token), `Facts` of columns, `Running` of their best.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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


class Facts(NamedTuple):
    """What turns sums of products of columns into correlations, and the columns' original index."""

    mean: np.ndarray
    inverse_sd: np.ndarray
    id: np.ndarray


class Running(NamedTuple):
    """Best so far of some columns, best first, in place: r float32 and index int64 (..., k)."""

    r: np.ndarray
    index: np.ndarray

    @classmethod
    def start(cls, *shape: int) -> Running:
        return cls(np.full(shape, -np.inf, np.float32), np.full(shape, NO_INDEX, np.int64))

    def of(self, part: slice) -> Running:
        """The same of some of the columns."""
        return Running(self.r[part], self.index[part])


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
def accumulate(rows, row, packed, sums):
    """sums[c] += x y for the entries (token, x) of a row and the packed (c, y) of these tokens.

    Rows of the other side lie anywhere in memory: each is asked for `AHEAD` entries before it is
    needed.  Unsigned numbers, because a signed index costs a test for being negative.
    """
    row_token, row_value, start, length = rows.number, rows.value, packed.start, packed.length
    values, numbers, per_word = packed.values, packed.numbers, packed.per_word
    hi = np.uint64(rows.start[row + 1])
    for entry in range(np.uint64(rows.start[row]), hi):
        later = entry + np.uint64(AHEAD)
        if later < hi:
            token = np.uint64(row_token[later])
            word = np.uint64(start[token])
            n = np.uint64(length[token])
            end = word + n + n // np.uint64(per_word) + np.uint64(15)
            while word < end:
                prefetch(values, word)
                word += np.uint64(16)
            later += np.uint64(AHEAD)
            if later < hi:
                prefetch(start, np.uint64(row_token[later]))
                prefetch(length, np.uint64(row_token[later]))
        token = np.uint64(row_token[entry])
        x = np.float64(row_value[entry])
        first, n = np.uint64(start[token]), np.uint64(length[token])
        number = (first + n) * np.uint64(per_word)
        for stored in range(n):
            sums[np.uint64(numbers[number + stored])] += x * np.float64(values[first + stored])


@jit(parallel=True)
def sparse_by_sparse_best(rows, own, packed, other, n_tokens, n_threads, best, seen):
    """Correlate sparse rows, one after the other, with all sparse columns of the other side.

    The accumulators of one row stay in the second-level cache.  own, other: `Facts`.  best: of the
    rows, updated in place.  seen: (threads, columns, k), what each thread saw.
    """
    n_columns, k = len(other.id), best.r.shape[1]
    for thread in numba.prange(n_threads):
        sums, r = np.zeros(n_columns), np.empty(n_columns, dtype=np.float32)
        # seen.r[thread, :, k - 1], contiguous
        least = np.full(n_columns, -np.inf, dtype=np.float32)
        for row in range(thread, len(own.id), n_threads):
            accumulate(rows, row, packed, sums)
            mean, inverse_sd = own.mean[row], own.inverse_sd[row]
            for first in range(0, n_columns, STRIP):
                last = min(first + STRIP, n_columns)
                row_least, news = best.r[row, k - 1], 0
                for column in range(first, last):
                    value = (sums[column] / n_tokens - mean * other.mean[column]) * inverse_sd
                    r[column] = min(1.0, max(-1.0, value * other.inverse_sd[column]))
                    sums[column] = 0.0
                    news += (r[column] >= row_least) | (r[column] >= least[column])
                if news == 0:
                    continue
                for column in range(first, last):
                    insert(r[column], other.id[column], best.r[row], best.index[row])
                    if r[column] >= least[column]:
                        seen_r, seen_index = seen.r[thread, column], seen.index[thread, column]
                        insert(r[column], own.id[row], seen_r, seen_index)
                        least[column] = seen_r[k - 1]


@jit(parallel=True)
def sparse_by_dense_sums(rows, dense, n_threads):
    """Sum over tokens of x y, float64 (rows, columns), of sparse rows and dense columns.

    The rows are given column by column (`Columns.by_column`).
    """
    n_rows, n_columns = len(rows.start) - 1, dense.shape[1]
    sums = np.zeros((n_rows, n_columns))
    for thread in numba.prange(n_threads):
        for row in range(thread, n_rows, n_threads):
            own, last = sums[row], rows.start[row + 1]
            for entry in range(rows.start[row], last):
                later = entry + AHEAD
                if later < last:
                    prefetch(dense[rows.number[later]], np.uint64(0))
                token, x = rows.number[entry], np.float64(rows.value[entry])
                for column in range(n_columns):
                    own[column] += x * np.float64(dense[token, column])
    return sums


@jit(parallel=True)
def packed_by_dense_sums(packed, n_rows, dense):
    """The same of sparse rows given token by token, in `SEGMENTS` runs, added up in order."""
    n_tokens, n_columns = dense.shape
    parts = np.zeros((SEGMENTS, n_rows, n_columns))
    for segment in numba.prange(SEGMENTS):
        sums = parts[segment]
        for token in range(segment * n_tokens // SEGMENTS, (segment + 1) * n_tokens // SEGMENTS):
            first = packed.start[token]
            number = (first + packed.length[token]) * packed.per_word
            for stored in range(packed.length[token]):
                y = np.float64(packed.values[first + stored])
                own = sums[packed.numbers[number + stored]]
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
def select(sums, n_tokens, rows, columns, best_rows, best_columns):
    """Select the best of a block of product sums, in place; rows, columns: `Facts`.

    r = (sum(x y) / n - mean_x mean_y) / (sd_x sd_y), kept within [-1, 1], rounded to float32.
    """
    for row in range(sums.shape[0]):
        for column in range(sums.shape[1]):
            r = sums[row, column] / n_tokens - rows.mean[row] * columns.mean[column]
            r = r * rows.inverse_sd[row] * columns.inverse_sd[column]
            r = np.float32(min(1.0, max(-1.0, r)))
            insert(r, columns.id[column], best_rows.r[row], best_rows.index[row])
            insert(r, rows.id[row], best_columns.r[column], best_columns.index[column])


@jit()
def merge(seen, best):
    """Merge (threads, columns, k) lists into (columns, k), in place, in any order of threads."""
    for thread in range(seen.r.shape[0]):
        for column in range(seen.r.shape[1]):
            for place in range(seen.r.shape[2]):
                r, index = seen.r[thread, column, place], seen.index[thread, column, place]
                if index != NO_INDEX:
                    insert(r, index, best.r[column], best.index[column])
