"""A training step with many active features: elementwise parts between dense products.

    F = features of P = x W_enc,   g = factor (F W_dec + b_dec - x)
    H = g W_dec^T,   D = slopes in P from H
    dW_dec = F^T g,   dW_enc^T = D^T x

The same equations as in `tokens.py`, for all features of a token at once.  Matrices (token, d_sae)
are pairs as in `selection`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from homolog.compiled import jit
from homolog.dictionaries.selection import _F0, _MATH, _load
from homolog.dictionaries.training.rows import _to_half

_ONE = np.float32(1)
# what `rules.on_cpu` replaces by a kind's own
N_VECTORS, SECOND, THIRD = 1, 0, 0
TWIN = LOWERED = False
magnitude: Any = None
slope: Any = None


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def _store(values, product, t):
    half, full = product
    if half.size > 0:
        _to_half(values, half[t])
    else:
        full[t] = values


def features(product, vectors, active, chosen):
    """Fill `active` with a block's features, and `chosen` with max(p, 0) if p is decoded too."""
    p = np.empty(vectors.shape[1], np.float32)
    f = np.empty_like(p)
    for t in range(max(product[0].shape[0], product[1].shape[0])):
        _load(product, t, p)
        for i in range(p.size):
            pre = p[i] + vectors[0, i]
            m = max(magnitude(p[i], pre, vectors[SECOND, i], vectors[THIRD, i]), _F0)
            f[i] = m if pre > _F0 else _F0
            if TWIN:
                p[i] = max(pre, _F0)
        if TWIN:
            _store(p, chosen, t)
        _store(f, active, t)


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def errors(reconstructed, bias, target, factor, g, g_half):
    """g = factor * (reconstructed + bias - target), and in bfloat16; the sum of squared errors."""
    squared = 0.0
    x_hat = np.empty(target.shape[1], np.float32)
    for t in range(target.shape[0]):
        _load(reconstructed, t, x_hat)
        norm = _F0
        for j in range(x_hat.size):
            error = x_hat[j] + bias[j] - target[t, j]
            norm += error * error
            g[t, j] = factor * error
        squared += norm
        if g_half.size > 0:
            _to_half(g[t], g_half[t])
    return squared


def slopes(product, h, twin, vectors, low, norms, penalty, constants, sums, total, count, seen):
    """Turn h, the slopes in the features, into those in x W_enc, in place, for a block of tokens.

    twin: slopes in max(p, 0), where it is decoded.  norms: of decoder rows.  Adds to sums (vectors,
    d_sae) the slopes in the vectors, to total the features, to count how many tokens each is active
    at, and to seen at how many product + low is above 0.  Returns the sum of what is penalised.
    """
    d_sae = vectors.shape[1]
    p, s, c = np.empty(d_sae, np.float32), np.empty(d_sae, np.float32), np.empty(d_sae, np.float32)
    penalised = 0.0
    for t in range(max(product[0].shape[0], product[1].shape[0])):
        _load(product, t, p)
        _load(h, t, s)
        if TWIN:
            _load(twin, t, c)
        of_token = _F0
        for i in range(d_sae):
            pre, a, b = p[i] + vectors[0, i], vectors[SECOND, i], vectors[THIRD, i]
            m = magnitude(p[i], pre, a, b)
            s[i], of_first, of_second, of_third, weighed = slope(
                pre, m, s[i], c[i], norms[i], a, b, penalty, constants[0], constants[1]
            )
            sums[0, i] += of_first
            if N_VECTORS > 1:
                sums[1, i] += of_second
            if N_VECTORS > 2:
                sums[2, i] += of_third
            active = m > _F0 and pre > _F0
            total[i] += m if active else _F0
            count[i] += _ONE if active else _F0
            if LOWERED:
                seen[i] += _ONE if p[i] + low[i] > _F0 else _F0
            of_token += weighed
        _store(s, h, t)
        penalised += of_token
    return penalised
