"""The part of a training step that goes feature by feature: gradients, and Adam on them.

    dW_dec[i] = sum value g_t,   dW_enc[:, i] = sum d x_t,   dvectors[i] = sum v

over the entries of feature i.

A feature's gradient is summed over the whole batch in first-level cache and used at once: no
gradient of all weights is ever stored, and weights and moments are read and written once a step.
W_enc is kept transposed, (d_sae, d_model).  Features do not depend on each other, so they may be
spread over threads; the bytes stay the same.
"""

from __future__ import annotations

import numpy as np

from homolog.compiled import jit
from homolog.dictionaries.selection import _F0, _MATH

_ONE = np.float32(1)
_TINY = np.float32(1e-30)  # moments below are 0: denormal numbers cost a hundred times as much


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def adam(p, g, m, v, rates):
    """One step of Adam [Kingma 2015] on float32 arrays, in place; rates: as `step.rates_at`.

    correction1 = 1 / (1 - beta1^t), correction2 = 1 / (1 - beta2^t) undo the bias of m and v.
    """
    rate, beta1, beta2, correction1, correction2, epsilon = rates
    size = rate * correction1
    for j in range(p.size):
        mean = beta1 * m[j] + (_ONE - beta1) * g[j]
        square = beta2 * v[j] + (_ONE - beta2) * g[j] * g[j]
        mean = mean if abs(mean) > _TINY else _F0
        m[j] = mean
        v[j] = square
        p[j] -= size * mean / (np.sqrt(correction2 * square) + epsilon)


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def _to_half(row, out):
    """Round float32 to bfloat16, to nearest, ties to even."""
    bits = row.view(np.int32)
    for j in range(row.size):
        odd = (bits[j] >> np.int32(16)) & np.int32(1)
        out[j] = np.uint16((bits[j] + np.int32(0x7FFF) + odd) >> np.int32(16))


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def _squared_norm(row):
    squared = _F0
    for j in range(row.size):
        squared += row[j] * row[j]
    return squared


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def _normalise(row):
    squared = _squared_norm(row)
    if squared > _F0:
        factor = _ONE / np.sqrt(squared)
        for j in range(row.size):
            row[j] *= factor


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def _step_decoder(row, g, m, v, total, penalty, unit, rates):
    """Adam on a decoder row: held at norm 1 if `unit`, else penalised by penalty * total."""
    if unit:  # without the part along the row, Adam does not chase the norm [Gao 2024]
        along = _F0
        for j in range(row.size):
            along += row[j] * g[j]
        for j in range(row.size):
            g[j] -= along * row[j]
    elif penalty > _F0:
        squared = _squared_norm(row)
        if squared > _F0:
            push = penalty * total / np.sqrt(squared)
            for j in range(row.size):
                g[j] += push * row[j]
    adam(row, g, m, v, rates)
    if unit:
        _normalise(row)


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def update_sparse(first, last, entries, x, g, target, rates, fired):
    """Gradients of features first to last from their entries, and one step of Adam.

    entries: offset, order and token as `sort_by_feature` fills them, the number of tokens, and of
    each entry the feature, the slope d in x W_enc and the slopes v in the vectors.  Those whose
    token is n_tokens or more are of the auxiliary loss: row of g as it is, of x less n_tokens.
    target: as `SaeState.target` gives it.  fired: counts of the entries with value above 0 that are
    not of the auxiliary loss.
    """
    offset, order, token, n_tokens, value, d, v = entries
    d_model, n_vectors = x.shape[1], v.shape[0]
    g_dec, g_enc = np.empty(d_model, np.float32), np.empty(d_model, np.float32)
    g_vec = np.empty((n_vectors, 1), np.float32)
    for i in range(first, last):
        g_dec[:] = _F0
        g_enc[:] = _F0
        g_vec[:] = _F0
        total, count = _F0, 0
        for place in range(offset[i], offset[i + 1]):
            a = order[place]
            t, f, slope = token[a], value[a], d[a]
            seen, push = x[t - n_tokens if t >= n_tokens else t], g[t]
            for j in range(d_model):
                g_dec[j] += f * push[j]
                g_enc[j] += slope * seen[j]
            for n in range(n_vectors):
                g_vec[n, 0] += v[n, a]
            total += f
            count += f > _F0 and t < n_tokens
        fired[i] = count
        _step_feature(i, g_enc, g_dec, g_vec, total, target, rates)


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def update_dense(first, last, G_enc, G_dec, g_vectors, total, target, rates):
    """Adam on features first to last, whose gradients are rows of matrices of either precision."""
    g_dec, g_enc = np.empty(G_dec.shape[1], np.float32), np.empty(G_dec.shape[1], np.float32)
    g_vec = np.empty((g_vectors.shape[0], 1), np.float32)
    for i in range(first, last):
        g_enc[:] = G_enc[i - first]
        g_dec[:] = G_dec[i - first]
        g_vec[:, 0] = g_vectors[:, i]
        _step_feature(i, g_enc, g_dec, g_vec, total[i], target, rates)


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def _step_feature(i, g_enc, g_dec, g_vec, total, target, rates):
    encoder, decoder, vectors, halves, (penalty, unit, frozen), columns = target
    for g in (g_enc, g_dec):
        g[: columns[i, 0]] = _F0
        g[columns[i, 1] :] = _F0
    weight, mean, square = encoder
    adam(weight[i], g_enc, mean[i], square[i], rates)
    if halves[0].size > 0:
        _to_half(weight[i], halves[0][i])
    weight, mean, square = vectors
    for n in range(weight.shape[0]):
        part = slice(i, i + 1)
        adam(weight[n, part], g_vec[n], mean[n, part], square[n, part], rates)
    weight, mean, square = decoder
    if not frozen:
        _step_decoder(weight[i], g_dec, mean[i], square[i], total, penalty, unit, rates)
    if halves[1].size > 0:
        _to_half(weight[i], halves[1][i])


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def row_norms(W, norms):
    """Euclidean norm of each row."""
    for i in range(W.shape[0]):
        norms[i] = np.sqrt(_squared_norm(W[i]))


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def normalise_rows(W):
    """Scale each row to norm 1; rows of zeros stay."""
    for i in range(W.shape[0]):
        _normalise(W[i])
