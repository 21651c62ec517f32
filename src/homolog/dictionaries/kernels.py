"""Forward and backward pass of a sparse autoencoder on CPU: dense encoder product, all else sparse.

Only the encoder's product x W_enc touches all features of a token (torch.mm, bfloat16 where native).  A token
uses some 30 of 768 features, so decoding and all gradients cost 30/768 of a dense product.  For token t with
active features A(t), x centred and scaled:

    f_i  = pre_i > 0 ? pre_i : 0                       (ReLU)  or the k largest positive pre_i (TopK)
    e    = b_dec + sum_{i in A} f_i W_dec[i] - x       error, loss ||e||^2
    g    = 2 e / batch
    dh_i = W_dec[i] . g + penalty * ||W_dec[i]||       i in A; penalty = l1 / batch (0 for TopK)
    dW_dec[i] += f_i g;  dW_enc[:, i] += dh_i x;  db_enc[i] += dh_i;  db_dec += g

`forward` runs token by token and writes the active features as CSR; `backward` runs feature by feature (CSC),
so that each gradient row stays in first-level cache over all tokens of a block.  W_enc is kept transposed,
(d_sae, d_model): a feature's weights are contiguous.  Sums are in a fixed order: same input, same bytes,
whatever the number of threads (one dictionary is worked on by one thread).  Checked against autograd in
`tests/dictionaries/test_gradients.py`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Reassociation lets sums vectorise; NaN and infinity keep their meaning, or divergence would go unseen.
_MATH = {"reassoc", "contract", "nsz", "arcp"}
_F0 = np.float32(0)


@njit(nogil=True, fastmath=_MATH, error_model="numpy", cache=True)
def _kth_largest_bits(bits, k):
    """Bit pattern of the k-th largest of positive float32 values; 0 when at most k are positive.

    Positive floats order like their bit patterns, so 31 vectorised counts bisect to the exact value.
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


@njit(nogil=True, fastmath=_MATH, error_model="numpy", cache=True)
def _select(values, bits, k, index):
    """Write the active features of a token into `index`, ascending; k = 0 takes all positive ones. Returns
    how many."""
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


@njit(nogil=True, fastmath=_MATH, error_model="numpy", cache=True)
def _pre_activations(half, full, is_half, t, b_enc, values, bits):
    """Pre-activations of token t in float32: bfloat16 is the upper half of a float32's bits."""
    if is_half:
        for i in range(values.size):
            bits[i] = np.int32(half[t, i]) << np.int32(16)
        for i in range(values.size):
            values[i] += b_enc[i]
    else:
        for i in range(values.size):
            values[i] = full[t, i] + b_enc[i]


@njit(nogil=True, fastmath=_MATH, error_model="numpy", cache=True)
def select_active(half, full, is_half, b_enc, k, index, value, start):
    """Active features of a block of tokens as CSR (index, value, start), from x W_enc without its bias."""
    n_tokens = start.size - 1
    values = np.empty(b_enc.size, np.float32)
    bits = values.view(np.int32)
    active = np.empty(b_enc.size + 1, np.int32)
    total = 0
    start[0] = 0
    for t in range(n_tokens):
        _pre_activations(half, full, is_half, t, b_enc, values, bits)
        n = _select(values, bits, k, active)
        for a in range(n):
            index[total + a] = active[a]
            value[total + a] = values[active[a]]
        total += n
        start[t + 1] = total
    return total


@njit(nogil=True, fastmath=_MATH, error_model="numpy", cache=True)
def forward(x, half, full, is_half, b_enc, W_dec, b_dec, k, factor, index, value, start, g):
    """Active features as CSR and g = factor * error of each token; returns the sum of squared errors."""
    n_tokens, d_model = x.shape
    select_active(half, full, is_half, b_enc, k, index, value, start[: n_tokens + 1])
    error = np.empty(d_model, np.float32)
    squared = 0.0
    for t in range(n_tokens):
        for j in range(d_model):
            error[j] = b_dec[j] - x[t, j]
        for a in range(start[t], start[t + 1]):
            row, f = W_dec[index[a]], value[a]
            for j in range(d_model):
                error[j] += f * row[j]
        norm = _F0
        for j in range(d_model):
            norm += error[j] * error[j]
        squared += norm
        for j in range(d_model):
            g[t, j] = factor * error[j]
    return squared


@njit(nogil=True, fastmath=_MATH, error_model="numpy", cache=True)
def auxiliary(half, full, is_half, b_enc, W_dec, dead, k, unfactor, factor, g, index, value, start, g_aux):
    """The auxiliary loss: dead features model the error -g * unfactor. Returns the sum of squared errors of
    that.

    Overwrites index, value, start with the dead features chosen and g_aux with factor * (error of the error).
    """
    n_tokens, d_model = g.shape
    values = np.empty(b_enc.size, np.float32)
    bits = values.view(np.int32)
    active = np.empty(b_enc.size + 1, np.int32)
    error = np.empty(d_model, np.float32)
    squared, total = 0.0, 0
    start[0] = 0
    for t in range(n_tokens):
        _pre_activations(half, full, is_half, t, b_enc, values, bits)
        for i in range(values.size):
            if not dead[i]:
                values[i] = _F0
        n = _select(values, bits, k, active)
        for j in range(d_model):
            error[j] = unfactor * g[t, j]
        for a in range(n):
            i = active[a]
            index[total + a] = i
            value[total + a] = values[i]
            for j in range(d_model):
                error[j] += values[i] * W_dec[i, j]
        total += n
        start[t + 1] = total
        norm = _F0
        for j in range(d_model):
            norm += error[j] * error[j]
            g_aux[t, j] = factor * error[j]
        squared += norm
    return squared


@njit(nogil=True, fastmath=_MATH, error_model="numpy", cache=True)
def backward(
    x,
    g,
    index,
    value,
    start,
    W_dec,
    norms,
    penalty,
    dW_enc,
    db_enc,
    dW_dec,
    total,
    fired,
    row,
    column_value,
    offset,
):
    """Add the gradients of a block to dW_enc, db_enc, dW_dec; activation sums to `total`, counts to `fired`.

    row, column_value, offset: work space for the CSC form, as long as index, index and d_sae + 1.
    """
    n_tokens, d_model = x.shape
    d_sae = W_dec.shape[0]
    n_active = start[n_tokens]
    offset[:] = 0
    for a in range(n_active):
        offset[index[a] + 1] += 1
    for i in range(d_sae):
        offset[i + 1] += offset[i]
    for t in range(n_tokens):
        for a in range(start[t], start[t + 1]):
            position = offset[index[a]]
            row[position] = t
            column_value[position] = value[a]
            offset[index[a]] = position + 1
    d_dec = np.empty(d_model, np.float32)
    d_enc = np.empty(d_model, np.float32)
    weights = np.empty(d_model, np.float32)
    low = 0
    for i in range(d_sae):
        high = offset[i]
        if high == low:
            continue
        for j in range(d_model):
            d_dec[j] = _F0
            d_enc[j] = _F0
            weights[j] = W_dec[i, j]
        sum_h, sum_f, push = _F0, _F0, penalty * norms[i]
        for position in range(low, high):
            t, f = row[position], column_value[position]
            dh = _F0
            for j in range(d_model):
                dh += g[t, j] * weights[j]
                d_dec[j] += f * g[t, j]
            dh += push
            for j in range(d_model):
                d_enc[j] += dh * x[t, j]
            sum_h += dh
            sum_f += f
        for j in range(d_model):
            dW_dec[i, j] += d_dec[j]
            dW_enc[i, j] += d_enc[j]
        db_enc[i] += sum_h
        total[i] += sum_f
        fired[i] += high - low
        low = high


@njit(nogil=True, fastmath=_MATH, error_model="numpy", cache=True)
def add_rows(g, out):
    """out += sum of the rows of g."""
    for t in range(g.shape[0]):
        for j in range(g.shape[1]):
            out[j] += g[t, j]


@njit(nogil=True, fastmath=_MATH, error_model="numpy", cache=True)
def row_norms(W, norms):
    """Euclidean norm of each row."""
    for i in range(W.shape[0]):
        squared = _F0
        for j in range(W.shape[1]):
            squared += W[i, j] * W[i, j]
        norms[i] = np.sqrt(squared)


@njit(nogil=True, fastmath=_MATH, error_model="numpy", cache=True)
def add_penalty_gradient(W_dec, norms, penalty, total, dW_dec):
    """Gradient of penalty * sum_i total_i ||W_dec[i]|| in W_dec: along each row."""
    for i in range(W_dec.shape[0]):
        if norms[i] > _F0:
            factor = penalty * total[i] / norms[i]
            for j in range(W_dec.shape[1]):
                dW_dec[i, j] += factor * W_dec[i, j]


@njit(nogil=True, fastmath=_MATH, error_model="numpy", cache=True)
def remove_parallel(W_dec, dW_dec):
    """Project each row's gradient off the (unit) row, so that Adam does not chase the norm [Gao 2024]."""
    for i in range(W_dec.shape[0]):
        along = _F0
        for j in range(W_dec.shape[1]):
            along += W_dec[i, j] * dW_dec[i, j]
        for j in range(W_dec.shape[1]):
            dW_dec[i, j] -= along * W_dec[i, j]


@njit(nogil=True, fastmath=_MATH, error_model="numpy", cache=True)
def normalise_rows(W):
    """Scale each row to norm 1; rows of zeros stay."""
    for i in range(W.shape[0]):
        squared = _F0
        for j in range(W.shape[1]):
            squared += W[i, j] * W[i, j]
        if squared > _F0:
            factor = np.float32(1) / np.sqrt(squared)
            for j in range(W.shape[1]):
                W[i, j] *= factor


@njit(nogil=True, fastmath=_MATH, error_model="numpy", cache=True)
def adam(p, g, m, v, rate, beta1, beta2, correction1, correction2, epsilon):
    """One step of Adam [Kingma 2015] on flat float32 arrays, in place; g is left at 0.

    correction1 = 1 / (1 - beta1^t), correction2 = 1 / (1 - beta2^t) undo the bias of m and v.
    """
    one = np.float32(1)
    for i in range(p.size):
        mean = beta1 * m[i] + (one - beta1) * g[i]
        square = beta2 * v[i] + (one - beta2) * g[i] * g[i]
        m[i] = mean
        v[i] = square
        g[i] = _F0
        p[i] -= rate * correction1 * mean / (np.sqrt(correction2 * square) + epsilon)
