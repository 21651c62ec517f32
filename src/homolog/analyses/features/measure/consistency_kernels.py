"""Compiled loops of `consistency` (numba): the draw of positions, how alike their contexts are."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from homolog.analyses.features.measure.example_kernels import uniform
from homolog.compiled import jit

ROUNDING = 1e-6  # of float32 cosines, which are at most 1


@jit()
def draw(block, seed, n):
    """Rows drawn for each feature of a block, in proportion to its values, int64 (features, n).

    One from each 1/n of the feature's sum, in the order of the stream; a row may be drawn again.
    -1 without any.
    """
    start, value = block.start, block.value
    rows = np.full((len(start) - 1, n), -1, np.int64)
    for f in range(len(start) - 1):
        total = 0.0
        for e in range(start[f], start[f + 1]):
            total += value[e]
        e, passed = start[f], 0.0
        for i in range(n if total > 0 else 0):
            wanted = (i + uniform(seed, block.first + f, i)) / n * total
            while e < start[f + 1] - 1 and passed + value[e] <= wanted:
                passed += value[e]
                e += 1
            rows[f, i] = block.row[e]
    return rows


@jit()
def context_before(flat, stream, bag):
    """Fill `bag` with the kept tokens before a place, nearest first; -1 where there are no more.

    Those of its window and its document.
    """
    document, context = stream.document, stream.context
    low, n, place = flat // context * context, 0, flat - 1
    while place >= low and n < len(bag) and document[place] == document[flat]:
        if stream.row_of[place] >= 0:
            bag[n] = stream.token[place]
            n += 1
        place -= 1
    bag[n:] = -1


@jit()
def spread_out(bag, weight, dense, sign):
    """Add (sign 1) a bag's weights to `dense`, or take it away (sign 0)."""
    for t in bag:
        if t < 0:
            break
        dense[t] = dense[t] + weight[t] if sign else 0.0


@jit()
def times(bag, weight, dense):
    """Inner product of a bag with the one that `dense` holds."""
    total = 0.0
    for t in bag:
        if t < 0:
            break
        total += weight[t] * dense[t]
    return total


@jit()
def bag_at(flat, stream, weight, dense, bag):
    """Fill `bag` with the context of a place; the length of its weighted vector.

    dense: scratch, zero.
    """
    context_before(flat, stream, bag)
    spread_out(bag, weight, dense, 1)
    square = times(bag, weight, dense)
    spread_out(bag, weight, dense, 0)
    return math.sqrt(square)


class Reference(NamedTuple):
    """Random places (r,), and their `reference_columns`."""

    places: np.ndarray
    columns: np.ndarray


@jit()
def reference_columns(places, stream, weight, length):
    """The bags at some places as unit vectors, float32 (vocabulary, places).

    So a token's row lies together in memory.
    """
    columns = np.zeros((len(weight), len(places)), np.float32)
    bag, dense = np.empty(length, np.int32), np.zeros(len(weight))
    for r in range(len(places)):
        norm = bag_at(places[r], stream, weight, dense, bag)
        for t in bag:
            if t >= 0 and norm > 0:
                columns[t, r] += weight[t] / norm
    return columns


@jit()
def alike(places, reference, stream, weight, length, token_share, least):
    """Consistency of each feature's contexts, of `length` tokens (`consistency`), float32.

    places: (features, n) flattened places.  NaN for features without places, or with fewer than
    `least` documents in them.
    """
    token, document, others = stream.token, stream.document, reference.places
    n, n_others = places.shape[1], len(others)
    consistency = np.full(len(places), np.nan, np.float32)
    bags, norms, dense = np.empty((n, length), np.int32), np.empty(n), np.zeros(len(weight))
    own, other, cosine = np.empty((n, n)), np.empty(n_others), np.empty(n_others)
    for f in range(len(places)):
        at = places[f]
        if at[0] < 0 or len(np.unique(document[at])) < least:
            continue
        for i in range(n):
            norms[i] = bag_at(at[i], stream, weight, dense, bags[i])
            spread_out(bags[i], weight, dense, 1)
            for j in range(i):
                size = norms[i] * norms[j]
                near = times(bags[j], weight, dense) / size if size > 0 else 0.0
                same = token_share if token[at[i]] == token[at[j]] else 0.0
                own[i, j] = own[j, i] = same + (1.0 - token_share) * near
            spread_out(bags[i], weight, dense, 0)
        total, pairs = 0, 0
        for i in range(n):
            cosine[:] = 0.0
            for t in bags[i]:
                if t >= 0 and norms[i] > 0:
                    cosine += weight[t] / norms[i] * reference.columns[t]
            n_apart = 0
            for r in range(n_others):
                if document[others[r]] != document[at[i]]:
                    same = token_share if token[others[r]] == token[at[i]] else 0.0
                    other[n_apart] = same + (1.0 - token_share) * cosine[r]
                    n_apart += 1
            for j in range(n):
                if document[at[j]] != document[at[i]]:
                    total += wins(own[i, j], other[:n_apart])
                    pairs += 2 * n_apart
        if pairs > 0:
            consistency[f] = 2.0 * total / pairs - 1.0
    return consistency


@jit()
def wins(value, others):
    """Twice the number of others that the value exceeds, plus that of those it equals, rounded."""
    count = 0
    for other in others:
        count += (value > other - ROUNDING) + (value > other + ROUNDING)
    return count
