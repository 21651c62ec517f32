"""Which features of a token are active: all above 0, or the k largest, lowest index first.

Products are pairs of matrices (token, d_sae): bfloat16 bits (uint16), and float32.
"""

from __future__ import annotations

import numpy as np

from homolog.compiled import jit

# Reassociation lets sums vectorise; NaN and infinity keep their meaning, or divergence would go
# unseen.
_MATH = {"reassoc", "contract", "nsz", "arcp"}
_F0 = np.float32(0)


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def _load(product, t, out):
    """Row t of a product into `out`, in float32: bfloat16 is the upper half of its bits."""
    half, full = product
    if half.size > 0:
        bits, row = out.view(np.int32), half[t]
        for i in range(out.size):
            bits[i] = np.int32(row[i]) << np.int32(16)
    else:
        out[:] = full[t]


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def _kth_largest_bits(bits, k):
    """Bit pattern of the k-th largest of positive float32 values; 0 when at most k are positive.

    Positive floats order like their bit patterns, so 31 vectorised counts bisect to the exact
    value.
    """
    low, high = np.int32(0), np.int32(0x7F800000)
    count = 0
    for i in range(bits.size):
        count += bits[i] > low
    if count <= k:
        return low
    while high - low > 1:  # count(bits > low) >= k > count(bits > high)
        middle = low + (high - low) // np.int32(2)
        count = 0
        for i in range(bits.size):
            count += bits[i] > middle
        if count >= k:
            low = middle
        else:
            high = middle
    return high


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def _select(values, bits, k, index):
    """Write a token's active features into `index`, ascending; how many.  k = 0: all above 0."""
    n = 0
    if k == 0:
        for i in range(values.size):
            index[n] = i
            n += values[i] > _F0
        return n
    threshold = _kth_largest_bits(bits, k)
    for i in range(values.size):
        index[n] = i
        n += bits[i] > threshold
    if threshold == 0 or n == k:
        return n
    ties = k - n  # equal values: lowest index first; merge from the back to stay ascending
    n = 0
    for i in range(values.size):
        if bits[i] > threshold:
            index[n] = i
            n += 1
        elif bits[i] == threshold and ties > 0:
            index[n] = i
            n += 1
            ties -= 1
    return n


@jit(nogil=True)
def sort_by_feature(index, regions, tokens, starts, token, order, offset):
    """Entry numbers in order of feature, then of token.

    order[offset[i] : offset[i + 1]] are those of feature i.  regions: (block, 2) first and last
    entry.  tokens: (block, 2) first token and how many.  starts: (block, tokens + 1).  Fills token,
    the token of each entry, too.
    """
    offset[:] = 0
    for b in range(regions.shape[0]):
        for a in range(regions[b, 0], regions[b, 1]):
            offset[index[a] + 1] += 1
    for i in range(offset.size - 1):
        offset[i + 1] += offset[i]
    for b in range(regions.shape[0]):
        for t in range(tokens[b, 1]):
            for a in range(starts[b, t], starts[b, t + 1]):
                place = offset[index[a]]
                order[place] = a
                token[a] = tokens[b, 0] + t
                offset[index[a]] = place + 1
    for i in range(offset.size - 1, 0, -1):
        offset[i] = offset[i - 1]
    offset[0] = 0
