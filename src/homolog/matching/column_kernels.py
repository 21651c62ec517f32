"""Compiled loops that prepare columns (numba): counts, moments, dense columns, sparse entries."""

from __future__ import annotations

import math

import numpy as np

from homolog.compiled import jit


@jit()
def column_extent(indices, data, n_columns):
    """(entries, largest |value|) of each CSR column, and where one is not finite (-1: nowhere)."""
    count, largest = np.zeros(n_columns, dtype=np.int64), np.zeros(n_columns)
    bad = -1
    for entry in range(len(indices)):
        value = abs(np.float64(data[entry]))
        if bad < 0 and not value < np.inf:
            bad = entry
        count[indices[entry]] += 1
        largest[indices[entry]] = max(largest[indices[entry]], value)
    return count, largest, bad


@jit()
def column_sums(indices, data, number, factor, n_columns):
    """(sum of x, sum of x^2), float64, of the columns that `number` numbers, -1 where left out.

    x = float32(value * factor).
    """
    first, second = np.zeros(n_columns), np.zeros(n_columns)
    for entry in range(len(indices)):
        column = number[indices[entry]]
        if column >= 0:
            x = np.float64(np.float32(np.float64(data[entry]) * factor[column]))
            first[column] += x
            second[column] += x * x
    return first, second


@jit()
def pack(indptr, indices, data, number, factor, start, values, numbers, per_word):
    """Fill the packed rows: of each token its values, then their columns, `per_word` in a word."""
    for token in range(len(indptr) - 1):
        n = 0
        for entry in range(indptr[token], indptr[token + 1]):
            column = number[indices[entry]]
            if column >= 0:
                values[start[token] + n] = np.float32(np.float64(data[entry]) * factor[column])
                n += 1
        place = (start[token] + n) * per_word
        for entry in range(indptr[token], indptr[token + 1]):
            column = number[indices[entry]]
            if column >= 0:
                numbers[place] = column
                place += 1


@jit()
def row_lengths(indptr, indices, number):
    """Entries of each row in columns that are not left out."""
    length = np.zeros(len(indptr) - 1, dtype=np.int32)
    for token in range(len(length)):
        for entry in range(indptr[token], indptr[token + 1]):
            length[token] += number[indices[entry]] >= 0
    return length


@jit()
def by_column(indptr, indices, data, number, factor, start):
    """(token int32 ascending, value float32) of the columns, one after the other from `start`."""
    place = start[:-1].copy()
    token_of, value_of = np.empty(start[-1], dtype=np.int32), np.empty(start[-1], dtype=np.float32)
    for token in range(len(indptr) - 1):
        for entry in range(indptr[token], indptr[token + 1]):
            column = number[indices[entry]]
            if column >= 0:
                token_of[place[column]] = token
                value_of[place[column]] = np.float32(np.float64(data[entry]) * factor[column])
                place[column] += 1
    return token_of, value_of


@jit()
def move_tokens(start, token, value, new_place):
    """Each column's entries with token t moved to new_place[t], ascending again."""
    moved, values = np.empty_like(token), np.empty_like(value)
    for column in range(len(start) - 1):
        lo, hi = start[column], start[column + 1]
        there = new_place[token[lo:hi]]
        order = np.argsort(there)
        moved[lo:hi], values[lo:hi] = there[order], value[lo:hi][order]
    return moved, values


@jit()
def fill_dense(indptr, indices, data, place, out):
    """Write the CSR columns with place >= 0 into `out` (tokens, places), zero before."""
    for token in range(len(indptr) - 1):
        for entry in range(indptr[token], indptr[token + 1]):
            if place[indices[entry]] >= 0:
                out[token, place[indices[entry]]] = data[entry]


@jit()
def standardise(x, z, varies, mean, inverse_sd):
    """z = (x - mean) / sd of every column, with the mean and 1/sd that z has when rounded.

    z: float32.  x (tokens, columns) float32 or float64; z, varies, mean, inverse_sd are filled.
    Each column is brought to magnitude 1 by a power of two and shifted by its first value (exact
    where it matters most: a large mean and a small spread), then centred twice.  A column of one
    value gets varies = False, z = 0.
    """
    n_tokens, n_columns = x.shape
    for stripe in range((n_columns + 63) // 64):
        lo, hi = stripe * 64, min(stripe * 64 + 64, n_columns)
        width = hi - lo
        scale, base, centre = np.zeros(width), np.zeros(width), np.zeros(width)
        rest, square = np.zeros(width), np.zeros(width)
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
                inverse_sd[lo + c] = 1.0 / math.sqrt(
                    square[c] / n_tokens - mean[lo + c] * mean[lo + c]
                )
