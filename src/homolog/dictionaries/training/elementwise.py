"""A training step where too many features are active for entries to pay: elementwise parts between
dense products.

    F = features of P = x W_enc,   g = factor (F W_dec + b_dec - x),   H = g W_dec^T,   D = slopes in P from H
    dW_dec = F^T g,   dW_enc^T = D^T x

The same equations as in `tokens.py`, for all features of a token at once.  Matrices are (token,
d_sae), each given as bfloat16 bits (uint16) and as float32; the one that is not in use has size 0.
"""

from __future__ import annotations

import numpy as np

from homolog.compiled import jit
from homolog.dictionaries.selection import _F0, _MATH
from homolog.dictionaries.training.rows import _to_half

RELU, JUMPRELU, GATED = 0, 1, 2
_ONE, _HALF = np.float32(1), np.float32(0.5)


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def _load(half, full, t, out):
    """Row t in float32."""
    if half.size > 0:
        bits, row = out.view(np.int32), half[t]
        for i in range(out.size):
            bits[i] = np.int32(row[i]) << np.int32(16)
    else:
        out[:] = full[t]


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def _store(values, half, full, t):
    if half.size > 0:
        _to_half(values, half[t])
    else:
        full[t] = values


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def features(kind, product, vectors, active, chosen):
    """Fill `active` with the features, and for Gated `chosen` with relu(x W_enc + b_gate), of a
    block of tokens.
    """
    p = np.empty(vectors.shape[1], np.float32)
    b_enc, f = vectors[0], np.empty_like(p)
    for t in range(max(product[0].shape[0], product[1].shape[0])):
        _load(product[0], product[1], t, p)
        if kind == RELU:
            for i in range(p.size):
                f[i] = max(p[i] + b_enc[i], _F0)
        elif kind == JUMPRELU:
            for i in range(p.size):
                f[i] = p[i] + b_enc[i] if p[i] + b_enc[i] > vectors[1, i] else _F0
        else:
            for i in range(p.size):
                gate = p[i] + b_enc[i]
                f[i] = max(p[i] * np.exp(vectors[2, i]) + vectors[1, i], _F0) if gate > _F0 else _F0
                p[i] = max(gate, _F0)
            _store(p, chosen[0], chosen[1], t)
        _store(f, active[0], active[1], t)


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def errors(reconstructed, bias, target, factor, g, g_half):
    """g = factor * (reconstructed + bias - target), and its bfloat16 twin; returns the sum of
    squared errors.
    """
    squared = 0.0
    x_hat = np.empty(target.shape[1], np.float32)
    for t in range(target.shape[0]):
        _load(reconstructed[0], reconstructed[1], t, x_hat)
        norm = _F0
        for j in range(x_hat.size):
            error = x_hat[j] + bias[j] - target[t, j]
            norm += error * error
            g[t, j] = factor * error
        squared += norm
        if g_half.size > 0:
            _to_half(g[t], g_half[t])
    return squared


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def slopes(kind, product, h, h_gate, vectors, norms, penalty, bandwidth, sums, total, count):
    """Turn h, the slopes in the features, into those in x W_enc, in place, for a block of tokens.

    h_gate: those in the frozen twin's values, for Gated.  norms: of decoder rows, as the penalty
    weighs them. Adds to sums (vectors, d_sae) the slopes in the vectors, to total the activations
    (JumpReLU: how often the feature was above its threshold or near), to count the active
    features.  Returns the penalised quantity: sum of value * norm, or the number of active
    features.
    """
    d_sae = vectors.shape[1]
    p, s, c = np.empty(d_sae, np.float32), np.empty(d_sae, np.float32), np.empty(d_sae, np.float32)
    penalised, width = 0.0, _ONE / bandwidth
    for t in range(max(product[0].shape[0], product[1].shape[0])):
        _load(product[0], product[1], t, p)
        _load(h[0], h[1], t, s)
        of_token = _F0
        if kind == RELU:
            for i in range(d_sae):
                f = p[i] + vectors[0, i]
                active = _ONE if f > _F0 else _F0
                s[i] = active * (s[i] + penalty * norms[i])
                sums[0, i] += s[i]
                total[i] += active * f
                count[i] += active
                of_token += active * f * norms[i]
        elif kind == JUMPRELU:
            for i in range(d_sae):
                f, limit = p[i] + vectors[0, i], vectors[1, i]
                near = _ONE if abs(f - limit) < bandwidth * _HALF else _F0
                sums[1, i] -= near * (limit * s[i] + penalty) * width
                active = _ONE if f > limit else _F0
                s[i] *= active
                sums[0, i] += s[i]
                total[i] += _ONE if f > limit - bandwidth * _HALF else _F0
                count[i] += active
                of_token += active
        else:
            _load(h_gate[0], h_gate[1], t, c)
            for i in range(d_sae):
                gate = p[i] + vectors[0, i]
                chosen = _ONE if gate > _F0 else _F0
                scaled = p[i] * np.exp(vectors[2, i])
                f = scaled + vectors[1, i]
                mag = s[i] * chosen * (_ONE if f > _F0 else _F0)
                choose = chosen * (c[i] + penalty)
                s[i] = choose + np.exp(vectors[2, i]) * mag
                sums[0, i] += choose
                sums[1, i] += mag
                sums[2, i] += mag * scaled
                count[i] += chosen * (_ONE if f > _F0 else _F0)
                of_token += chosen * gate
        _store(s, h[0], h[1], t)
        penalised += of_token
    return penalised
