"""Compiled loops over the active tokens of features, feature by feature (numba).

A layer's matrix is stored token by token; `column_blocks` gives it feature by feature, in blocks of
bounded size. Draws are a hash of seed, feature and place, so they depend neither on the blocks nor
on threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from homolog.compiled import jit
from homolog.corpus import TokenWindows
from homolog.errors import InputError
from homolog.features import SparseFeatures
from homolog.matching.column_kernels import by_column

BLOCK_ENTRIES = 1 << 24  # 8 bytes each
SAME_TEXT = 8  # tokens up to the position that two examples may not share
# share of the active tokens on either side of a quantile from which its examples are drawn
AROUND = 0.05

_STEP, _FIRST, _SECOND = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)
_30, _27, _31, _11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


class Stream(NamedTuple):
    """The flattened windows: token and document, and where each row of the features stands."""

    token: np.ndarray
    document: np.ndarray
    place: np.ndarray  # of each row
    row_of: np.ndarray  # of each place; -1 where masked
    context: int


def flattened(windows: TokenWindows) -> Stream:
    """The stream of these windows."""
    place = np.flatnonzero(windows.mask)
    row_of = np.full(windows.tokens.size, -1, np.int32)
    row_of[place] = np.arange(len(place), dtype=np.int32)
    token, document = (
        np.ascontiguousarray(part.reshape(-1)) for part in (windows.tokens, windows.document)
    )
    return Stream(token, document, place, row_of, windows.context)


class Block(NamedTuple):
    """Features from `first` on: the i-th is active on row[start[i] : start[i + 1]], ascending."""

    first: int
    start: np.ndarray  # int64
    row: np.ndarray  # int32
    value: np.ndarray  # float32, above 0


def column_blocks(features: SparseFeatures) -> Iterator[Block]:
    """All features in order, in blocks of at most BLOCK_ENTRIES active tokens, or one feature.

    Holds 8 bytes per active token of a block.  InputError where an activation is negative or NaN.
    """
    csr = features.matrix
    if csr.nnz and not csr.data.min() >= 0:
        least, needed = float(csr.data.min()), "features of a dictionary are 0 or positive"
        raise InputError("activations", least, needed, "Give features that are never below 0.")
    if np.count_nonzero(csr.data) < csr.nnz:
        csr = csr.copy()
        csr.eliminate_zeros()
    counts = np.bincount(csr.indices, minlength=features.n_features)
    start = np.concatenate([[0], np.cumsum(counts)])
    number, factor = np.empty(features.n_features, np.int32), np.ones(features.n_features)
    first = 0
    while first < features.n_features:
        fitting = int(np.searchsorted(start, start[first] + BLOCK_ENTRIES, side="right")) - 1
        end = max(first + 1, fitting)
        number[:] = -1
        number[first:end] = np.arange(end - first)
        own = start[first : end + 1] - start[first]
        row, value = by_column(csr.indptr, csr.indices, csr.data, number, factor, own)
        yield Block(first, own, row, value)
        first = end


@jit()
def mixed(seed, feature, place):
    """64 random bits of (seed, feature, place): rounds of SplitMix64 (Steele, Lea, Flood 2014)."""
    x = np.uint64(seed)
    for word in (np.uint64(feature), np.uint64(place)):
        x = (x ^ word) + _STEP
        x = (x ^ (x >> _30)) * _FIRST
        x = (x ^ (x >> _27)) * _SECOND
        x = x ^ (x >> _31)
    return x


@jit()
def uniform(seed, feature, place):
    """A random number in (0, 1)."""
    return (np.float64(mixed(seed, feature, place) >> _11) + 0.5) * 2.0**-53


@jit()
def shown_span(flat, stream, before, after):
    """[first, end) of the tokens shown around a place: same window, same document."""
    document, context = stream.document, stream.context
    low, high = flat // context * context, (flat // context + 1) * context
    first, end = flat, flat + 1
    while first > low and flat - first < before and document[first - 1] == document[flat]:
        first -= 1
    while end < high and end - flat <= after and document[end] == document[flat]:
        end += 1
    return first, end


@jit()
def is_new(flat, first, end, n, chosen, token):
    """Whether the tokens shown overlap with none of n examples, and end in other words.

    chosen (examples, 4): entry, place, first and end of the tokens shown.
    """
    own = min(flat - first + 1, SAME_TEXT)
    for i in range(n):
        if first < chosen[i, 3] and chosen[i, 2] < end:
            return False
        back, same = 0, own == min(chosen[i, 1] - chosen[i, 2] + 1, SAME_TEXT)
        while same and back < own:
            same = token[flat - back] == token[chosen[i, 1] - back]
            back += 1
        if same:
            return False
    return True


@jit()
def select(block, stream, shown, wanted, quantiles, seed):
    """Choose the examples of a block's features: (chosen, taken).

    shown: most tokens before and after the place.  wanted: how many of the top, then of each
    quantile.  chosen: (features, sum of wanted, 4), see `is_new`, group after group; taken:
    (features, groups), how many.
    """
    start, n_features = block.start, len(block.start) - 1
    chosen = np.zeros((n_features, wanted.sum(), 4), np.int64)
    taken = np.zeros((n_features, len(wanted)), np.int64)
    for f in range(n_features):
        own = slice(start[f], start[f + 1])
        values, rows = block.value[own], block.row[own]
        n, n_chosen = len(values), 0
        order = np.argsort(-values, kind="mergesort")  # equal values stay in the order of the rows
        for group in range(len(wanted)):
            lo, hi = 0, n
            if group > 0:
                above = 1.0 - quantiles[group - 1]  # share of the active tokens with a higher value
                lo = max(0, math.floor((above - AROUND) * n))
                hi = min(n, math.ceil((above + AROUND) * n))
            i, begun = lo, n_chosen
            while i < hi and n_chosen - begun < wanted[group]:
                if group > 0:  # the next of a random order
                    bits = mixed(seed, block.first + f, (group << 40) + i)
                    other = i + np.int64(bits % np.uint64(hi - i))
                    order[i], order[other] = order[other], order[i]
                flat = stream.place[rows[order[i]]]
                first, end = shown_span(flat, stream, shown[0], shown[1])
                if is_new(flat, first, end, n_chosen, chosen[f], stream.token):
                    chosen[f, n_chosen, 0], chosen[f, n_chosen, 1] = order[i], flat
                    chosen[f, n_chosen, 2], chosen[f, n_chosen, 3] = first, end
                    n_chosen += 1
                i += 1
            group_of = chosen[f, begun:n_chosen]  # highest first; of equal values the earlier row
            group_of[:] = group_of[np.argsort(group_of[:, 0])]
            group_of[:] = group_of[np.argsort(-values[group_of[:, 0]], kind="mergesort")]
            taken[f, group] = n_chosen - begun
    return chosen, taken


@jit()
def shown_tokens(block, stream, of_feature, chosen, offset):
    """The tokens shown of each example, and the feature's values on them (0 at masked ones).

    chosen (examples, 4); of_feature: the feature's number in the block; offset: where each example
    begins in the output.
    """
    start, row, row_of = block.start, block.row, stream.row_of
    tokens, values = np.empty(offset[-1], np.int32), np.zeros(offset[-1], np.float32)
    for i in range(len(chosen)):
        begin, end, first = start[of_feature[i]], start[of_feature[i] + 1], chosen[i, 2]
        e, kept = begin + chosen[i, 0], first
        while row_of[kept] < 0:  # ends at the example's own place at the latest
            kept += 1
        while e > begin and row[e - 1] >= row_of[kept]:
            e -= 1
        for place in range(first, chosen[i, 3]):
            out = offset[i] + place - first
            tokens[out] = stream.token[place]
            if row_of[place] >= 0:
                while e < end and row[e] < row_of[place]:
                    e += 1
                if e < end and row[e] == row_of[place]:
                    values[out] = block.value[e]
    return tokens, values


@jit()
def by_token(block, token, half, count, top):
    """Measures of `token_statistics` for a block's features: (mean, highest, entropy, r2, best).

    token: token id of each row; half: 0 or 1 of each row; count (2, vocabulary): rows of each half
    with each token.  mean: of the active values; best: (features, top) token ids, -1 for none.
    """
    start, value, n_features = block.start, block.value, len(block.start) - 1
    mean, entropy = np.full(n_features, np.nan), np.full(n_features, np.nan)
    r2, highest = np.zeros(n_features), np.zeros(n_features, np.float32)
    best = np.full((n_features, top), -1, np.int32)
    size = count.shape[1]
    sums = np.zeros((2, size))
    stamp, touched = np.full(size, -1, np.int64), np.empty(size, np.int64)
    rows = np.array([count[0].sum(), count[1].sum()])
    unseen = np.zeros(2)  # rows of a half whose token the other half does not have
    for t in range(size):
        for b in range(2):
            if count[1 - b, t] == 0:
                unseen[b] += count[b, t]
    for f in range(n_features):
        total, square, m = np.zeros(2), np.zeros(2), 0
        for e in range(start[f], start[f + 1]):
            t, b, v = token[block.row[e]], half[block.row[e]], np.float64(value[e])
            if stamp[t] != f:
                stamp[t], touched[m], sums[0, t], sums[1, t] = f, t, 0.0, 0.0
                m += 1
            sums[b, t] += v
            total[b] += v
            square[b] += v * v
            highest[f] = max(highest[f], value[e])
        whole = total[0] + total[1]
        if m > 0:
            mean[f], entropy[f] = whole / (start[f + 1] - start[f]), 0.0
        for i in range(m):
            weight = sums[0, touched[i]] + sums[1, touched[i]]
            entropy[f] -= weight / whole * math.log2(weight / whole)
        entropy[f] = abs(entropy[f])  # one token: 0, not -0
        ids = np.sort(touched[:m])  # of equal sums the lower id first
        largest = np.argsort(-(sums[0][ids] + sums[1][ids]), kind="mergesort")[:top]
        best[f, : len(largest)] = ids[largest]
        for b in range(2):
            own = square[b], unseen[b]
            r2[f] += 0.5 * predicted_by_token(touched[:m], sums, count, rows, total, *own, b)
    return mean, highest, entropy, r2, best


@jit()
def predicted_by_token(touched, sums, count, rows, total, square, unseen, b):
    """R2 on half b of the means by token of the other half; NaN where half b does not vary.

    The squared errors of tokens on which the feature never fires are 0 where the other half has the
    token, else the square of the other half's mean.
    """
    a = 1 - b
    if rows[a] == 0 or rows[b] == 0:
        return math.nan
    spread = square - total[b] * total[b] / rows[b]
    if spread <= 1e-12 * square:
        return math.nan
    overall = total[a] / rows[a]
    error = square + overall * overall * unseen
    for t in touched:
        if count[a, t] > 0:
            predicted = sums[a, t] / count[a, t]
            error += predicted * (predicted * count[b, t] - 2.0 * sums[b, t])
        else:
            error -= 2.0 * overall * sums[b, t]
    return 1.0 - error / spread
