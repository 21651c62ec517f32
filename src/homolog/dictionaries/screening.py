"""Sparse encoding on CPU: a cheap product finds candidates, exact sums decide and give values.

With x the centred token, w a column of W_enc, x~ and w~ what the product sees of them (bfloat16, or
themselves):

    x w = x~ w~ + (x - x~) w + x~ (w - w~)
    |x w - x~ w~| <= ||x - x~|| ||w|| + ||x~|| ||w - w~||             (Cauchy-Schwarz)

With the largest ||x - x~|| / ||x~|| of a block of tokens, this is ||x~|| times a number of the
feature.  The rounding of the product's sums, of its result and of the biases are added.  A feature
whose pre-activation is not above its threshold at the upper end of the bound is not active; all
others are computed again, from float32 in float64:

    p = float32(x w + b_enc),  active where p > threshold, both float32

Rounding keeps order and a threshold is a float32 number, so p > threshold only where x w + b_enc >
threshold: the bound holds for every input, no active feature is lost, and what comes out does not
depend on the precision of the product.
"""

from __future__ import annotations

import numpy as np

from homolog.compiled import jit
from homolog.dictionaries.selection import (
    _F0,
    _MATH,
    _kth_largest_bits,
    _load,
    _select,
    sort_by_feature,
)


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def _below_kth_largest(bits, k):
    """A float32 below the k-th largest of values given by their bits, and close.

    0 when about k are positive.  The k-th largest of the maxima of 8k or more groups has k values
    as large, and few more: 7 in 100 at random.
    """
    n_groups = max(8 * k, 256)
    largest = bits[:n_groups].copy()
    for low in range(n_groups, bits.size, n_groups):
        group = bits[low : low + n_groups]
        for i in range(group.size):  # positive floats order like their bits
            largest[i] = max(largest[i], group[i])
    below = np.empty(1, np.int32)
    below[0] = max(_kth_largest_bits(largest, k) - 1, 0)
    return below.view(np.float32)[0]


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def _append_above(values, threshold, index, total):
    """Append to `index`, from place `total`, where values exceed the threshold; the new total."""
    for low in range(0, values.size, 64):
        group = values[low : low + 64]
        count = np.int32(0)
        for i in range(group.size):  # counting vectorises, and most groups have none
            count += np.int32(group[i] > threshold)
        if count > 0:
            for i in range(group.size):
                index[total] = low + i
                total += group[i] > threshold
    return total


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def screen(product, bounds, k, limit, index, start):
    """Append the features of each token that may be active to CSR (index, start).

    The first place is start[0].  Returns their number with those before, -1 if more than `limit`.
    product: x W_enc.  bounds: relative, highest, lowest, x_norm, bound, with |x_t w_i - product| <=
    x_norm_t bound_i + relative |product|, and highest and lowest b_enc - threshold with all that
    rounding may add or take.  k = 0: all whose pre-activation may exceed the threshold.  k > 0 (and
    thresholds 0): of these, all that may be among the k largest, since k lower ends of the bound
    exceed the threshold.  `index` needs room for limit + d_sae + 1.
    """
    relative, highest, lowest, x_norm, bound = bounds
    n_tokens, width = start.size - 1, highest.size
    values, upper = np.empty(width, np.float32), np.empty(width, np.float32)
    lower = np.empty(width, np.float32)
    total = start[0]
    for t in range(n_tokens):
        _load(product, t, values)
        norm, threshold = x_norm[t], _F0
        for i in range(width):
            upper[i] = values[i] + highest[i] + norm * bound[i] + relative * abs(values[i])
        if k > 0:
            for i in range(width):
                lower[i] = values[i] + lowest[i] - norm * bound[i] - relative * abs(values[i])
            threshold = _below_kth_largest(lower.view(np.int32), k)
        total = _append_above(upper, threshold, index, total)
        if total > limit:
            return -1
        start[t + 1] = total
    return total


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def _pre_activation(x, weights, bias):
    """x w + b_enc of one token and feature, summed in float64, the bias last."""
    pre = 0.0
    for j in range(x.size):
        pre += np.float64(x[j]) * np.float64(weights[j])
    return pre + np.float64(bias)


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def compute(x, weights, index, start, token, order, offset, value):
    """Pre-activations x w + b_enc of the candidates (index, start).

    They are summed in float64 and rounded once to float32, and depend on nothing but token and
    feature.  Feature by feature, so that weights are read once and in order.
    weights: W_enc transposed, and b_enc.  token, order, offset: work space, as `sort_by_feature`
    fills it.
    """
    W_enc_T, b_enc = weights
    n_tokens, d_model = x.shape
    regions, tokens = np.zeros((1, 2), np.int64), np.zeros((1, 2), np.int64)
    regions[0, 1], tokens[0, 1] = start[n_tokens], n_tokens
    sort_by_feature(index, regions, tokens, start.reshape(1, -1), token, order, offset)
    row = np.empty(d_model, np.float64)
    for i in range(b_enc.size):
        if offset[i + 1] > offset[i]:
            for j in range(d_model):
                row[j] = W_enc_T[i, j]
        for place in range(offset[i], offset[i + 1]):
            a = order[place]
            value[a] = _pre_activation(x[token[a]], row, b_enc[i])


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def keep_active(threshold, k, index, value, start):
    """Keep of the candidates those above their feature's threshold; returns their number.

    (index, value, start) are changed in place.  k > 0: of these the k largest of each token, among
    equal ones the lowest index.
    """
    n_tokens, widest = start.size - 1, 0
    for t in range(n_tokens):
        widest = max(widest, start[t + 1] - start[t])
    chosen = np.empty(widest + 1, np.int32)
    total, low = 0, 0
    for t in range(n_tokens):
        high, n = start[t + 1], 0
        for a in range(low, high):
            above = value[a] > threshold[index[a]]
            index[low + n], value[low + n] = index[a], value[a]
            n += above
        if k > 0 and n > k:
            of_token = value[low : low + n]
            n = _select(of_token, of_token.view(np.int32), k, chosen)
            for a in range(n):
                index[low + a], value[low + a] = index[low + chosen[a]], value[low + chosen[a]]
        for a in range(low, low + n):
            index[total], value[total] = index[a], value[a]
            total += 1
        low = high
        start[t + 1] = total
    return total


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def select_dense(product, x, weights, threshold, bounds, k, index, value, start):
    """Active features of a block as CSR (index, value, start), from its float32 product x W_enc.

    weights: W_enc transposed, and b_enc.  bounds: relative, slack (of the biases), x_norm, bound.
    Where the product's error (as in `screen`) leaves open whether a feature
    exceeds its threshold, the exact sum decides and gives the value: which features are active is
    exact here too.  k > 0: of these the k largest.
    """
    (W_enc_T, b_enc), (relative, slack, x_norm, bound) = weights, bounds
    n_tokens, width = product.shape
    values, chosen = np.empty(width, np.float32), np.empty(width + 1, np.int32)
    total = 0
    start[0] = 0
    for t in range(n_tokens):
        for i in range(width):
            values[i] = product[t, i] + b_enc[i]
        for i in range(width):
            margin = x_norm[t] * bound[i] + relative * abs(product[t, i]) + slack[i]
            if abs(values[i] - threshold[i]) <= margin:
                values[i] = _pre_activation(x[t], W_enc_T[i], b_enc[i])
        for i in range(width):
            if not values[i] > threshold[i]:
                values[i] = _F0
        n = _select(values, values.view(np.int32), k, chosen)
        for a in range(n):
            index[total + a] = chosen[a]
            value[total + a] = values[chosen[a]]
        total += n
        start[t + 1] = total
    return total
