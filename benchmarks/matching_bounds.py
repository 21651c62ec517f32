"""What bounds the sparse kernel: loops that do a part of its work each, on the same columns.

For each entry (token, x) of A the kernel looks up the packed row of B at that token, which lies
anywhere in memory, and adds x y to the accumulators of the row's columns, which lie anywhere in the
second-level cache.

    touches     asks for the rows ahead as the kernel does, and reads a word of each cache line;
    additions   the kernel's products with every token replaced by one of `CACHED`, whose rows stay
                in the cache;
    products    the kernel's products: both.
    kernel      the whole: it also turns the sums into r and selects the best.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from measuring import fastest

from homolog.matching import pearson
from homolog.matching.columns import Columns
from homolog.matching.kernels import AHEAD, Running, accumulate, jit, prefetch

# packed rows of about 300 bytes: with a row of accumulators, half of a second-level cache of 1 MiB
CACHED = 1024


@jit(parallel=True)
def product_sums(rows, packed, n_columns, n_threads):
    """The sums of products of each row of A, thrown away.

    Their total, (threads,), is returned so that nothing is optimised away.
    """
    total = np.zeros(n_threads)
    for thread in numba.prange(n_threads):
        sums = np.zeros(n_columns)
        for row in range(thread, len(rows.start) - 1, n_threads):
            accumulate(rows, row, packed, sums)
        total[thread] = sums.sum()
    return total


@jit(parallel=True)
def touches(row_start, row_token, start, length, values, per_word, n_threads):
    """The sum of a word of each cache line of each row that `product_sums` looks up, by threads."""
    total = np.zeros(n_threads)
    for thread in numba.prange(n_threads):
        read = np.float32(0)
        for row in range(thread, len(row_start) - 1, n_threads):
            hi = np.uint64(row_start[row + 1])
            for entry in range(np.uint64(row_start[row]), hi):
                later = entry + np.uint64(AHEAD)
                if later < hi:
                    word, end = extent(row_token[later], start, length, per_word)
                    while word < end + np.uint64(15):
                        prefetch(values, word)
                        word += np.uint64(16)
                    later += np.uint64(AHEAD)
                    if later < hi:
                        prefetch(start, np.uint64(row_token[later]))
                        prefetch(length, np.uint64(row_token[later]))
                word, end = extent(row_token[entry], start, length, per_word)
                while word < end:
                    read += values[word]
                    word += np.uint64(16)
                if end:
                    read += values[end - np.uint64(1)]
        total[thread] = read
    return total


@jit()
def extent(token, start, length, per_word):
    """First word of a packed row and the one after its last."""
    n, first = np.uint64(length[np.uint64(token)]), np.uint64(start[np.uint64(token)])
    return first, first + n + n // np.uint64(per_word)


def products(left: Columns, right: Columns, threads: int, cached: bool = False) -> None:
    """The products of a pair, thrown away; `cached`: with the rows of a few tokens only."""
    rows = left.by_column
    if cached:
        rows = rows._replace(number=rows.number % CACHED)
    product_sums(rows, right.packed, right.n_sparse, threads)


def bounds(left: Columns, right: Columns, threads: int, k: int) -> dict[str, float]:
    """Seconds of each loop, and of the kernel, the fastest of a few calls."""
    (start, token, _), packed = left.by_column, right.packed
    rows = packed.start, packed.length, packed.values, packed.per_word

    def kernel() -> None:
        best_left, best_right = (Running.start(len(side.order), k) for side in (left, right))
        pearson._sparse_by_sparse(left, right, best_left, best_right, threads)

    loops: dict[str, Callable[[], object]] = {
        "touches": lambda: touches(start, token, *rows, threads),
        "additions": lambda: products(left, right, threads, cached=True),
        "products": lambda: products(left, right, threads),
        "kernel": kernel,
    }
    return {name: fastest(loop) for name, loop in loops.items()}
