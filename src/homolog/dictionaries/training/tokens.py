"""The part of a training step that goes token by token: active features, errors and slopes.

Active features are entries of CSR arrays (index, value, start).  With g = factor * error, for each
entry

    h = W_dec[i] . g        the slope of the loss in the feature's value
    d                       the slope in x W_enc
    v                       the slopes in the feature's vectors

Everything is float32, except that products may come in bfloat16.  Sums are in a fixed order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from homolog.compiled import jit
from homolog.dictionaries.screening import _append_above, _below_kth_largest
from homolog.dictionaries.selection import _F0, _MATH, _load, _select

# what `rules.on_cpu` replaces by a kind's own
N_VECTORS, SECOND, THIRD = 1, 0, 0
magnitude: Any = None
slope: Any = None


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def _load_biased(product, t, bias, values):
    """values = product of token t + bias, in float32."""
    _load(product, t, values)
    for i in range(values.size):
        values[i] += bias[i]


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def select_above(product, b_enc, low, limit, index, value, start):
    """Entries p = product + b_enc of a block of tokens where product + low > 0.

    start[0] is where they begin.  Returns where they end, -1 if there are more than `limit`.  index
    and value need room for limit + d_sae + 1.
    """
    above = np.empty(b_enc.size, np.float32)
    begin = start[0]
    total = begin
    for t in range(start.size - 1):
        _load_biased(product, t, low, above)
        first, total = total, _append_above(above, _F0, index, total)
        if total - begin > limit:
            return -1
        for a in range(first, total):
            i = index[a]
            value[a] = above[i] + (b_enc[i] - low[i])
        start[t + 1] = total
    return total


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def select_largest(product, b_enc, k, index, value, start):
    """Entries of a block of tokens: each token's k largest p above 0.

    Lowest feature first among equal ones.  index and value need room for tokens * k + d_sae + 1
    from start[0] on.
    """
    values = np.empty(b_enc.size, np.float32)
    candidates, chosen = np.empty(b_enc.size + 64, np.int32), np.empty(b_enc.size + 1, np.int32)
    total = start[0]
    for t in range(start.size - 1):
        _load_biased(product, t, b_enc, values)
        n = _append_above(values, _below_kth_largest(values.view(np.int32), k), candidates, 0)
        kept = values[candidates[:n]]
        n = _select(kept, kept.view(np.int32), k, chosen) if n > k else n
        for a in range(n):
            place = chosen[a] if kept.size > k else a
            index[total + a], value[total + a] = candidates[place], kept[place]
        total += n
        start[t + 1] = total
    return total


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def select_dead(product, b_enc, dead, k, index, value, start):
    """Entries of a block: each token's k largest p above 0 among the features in `dead`."""
    half, full = product
    values = np.empty(dead.size, np.float32)
    bits, chosen = values.view(np.int32), np.empty(dead.size + 1, np.int32)
    total = start[0]
    for t in range(start.size - 1):
        for a in range(dead.size):
            i = dead[a]
            if half.size > 0:
                bits[a] = np.int32(half[t, i]) << np.int32(16)
                values[a] += b_enc[i]
            else:
                values[a] = full[t, i] + b_enc[i]
        n = _select(values, bits, min(k, dead.size), chosen)
        for a in range(n):
            index[total + a], value[total + a] = dead[chosen[a]], values[chosen[a]]
        total += n
        start[t + 1] = total
    return total


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def keep_from(cut, ties, index, value, start):
    """Keep of a block's entries those above `cut` and the first `ties` equal to it; the new end."""
    total, low = start[0], start[0]
    for t in range(start.size - 1):
        for a in range(low, start[t + 1]):
            keep = value[a] > cut
            if value[a] == cut and ties > 0:
                keep, ties = True, ties - 1
            if keep:
                index[total], value[total] = index[a], value[a]
                total += 1
        low = start[t + 1]
        start[t + 1] = total
    return total


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def decode(target, bias, index, value, start, W_dec, factor, g, h):
    """g = factor * (bias + sum of value W_dec[index] - target) of each token, and h of each entry.

    Returns the sum of squared errors.
    """
    n_tokens, d_model = target.shape
    error = np.empty(d_model, np.float32)
    squared = 0.0
    for t in range(n_tokens):
        for j in range(d_model):
            error[j] = bias[j] - target[t, j]
        for a in range(start[t], start[t + 1]):
            row, f = W_dec[index[a]], value[a]
            for j in range(d_model):
                error[j] += f * row[j]
        norm = _F0
        for j in range(d_model):
            norm += error[j] * error[j]
        squared += norm
        for j in range(d_model):
            error[j] *= factor
            g[t, j] = error[j]
        for a in range(start[t], start[t + 1]):
            row, slope = W_dec[index[a]], _F0
            for j in range(d_model):
                slope += row[j] * error[j]
            h[a] = slope
    return squared


def values(first, last, index, p, vectors, f):
    """f of entries with pre-activations p; compiled for each kind, as `slopes` is."""
    for a in range(first, last):
        i = index[a]
        m = magnitude(p[a] - vectors[0, i], p[a], vectors[SECOND, i], vectors[THIRD, i])
        f[a] = max(m, _F0)


def slopes(first, last, index, p, f, h, twin, vectors, norms, penalty, constants, d, v):
    """d and v of entries, from the slopes h in f and twin in p.

    Returns the sum of what is penalised.  norms: of decoder rows.  penalty: its weight over the
    number of tokens.
    """
    total = 0.0
    for a in range(first, last):
        i = index[a]
        second, third = vectors[SECOND, i], vectors[THIRD, i]
        d[a], of_first, of_second, of_third, weighed = slope(
            p[a], f[a], h[a], twin[a], norms[i], second, third, penalty, constants[0], constants[1]
        )
        v[0, a] = of_first
        if N_VECTORS > 1:
            v[1, a] = of_second
        if N_VECTORS > 2:
            v[2, a] = of_third
        total += weighed
    return total


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def add_rows(g, out):
    """out += sum of the rows of g."""
    for t in range(g.shape[0]):
        for j in range(g.shape[1]):
            out[j] += g[t, j]
