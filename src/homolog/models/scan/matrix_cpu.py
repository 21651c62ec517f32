"""Linear attention and the delta rule in numba (equations in `matrix.py`).

A task is one batch row, one head and one block of value channels; its columns of the state stay in
cache over all positions, and the inner loops run over channels and vectorise.  Position after
position is as fast here as matrix products over chunks of positions, which for 64 of them have as
many operations, and needs no masks, inverses or cumulative decays.  The backward pass keeps the
state at the start of every chunk of positions and recomputes the states inside the chunk.  Tasks
run on as many threads as torch uses; the result does not depend on their number.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from homolog.compiled import jit
from homolog.models.scan.cpu import OPTIONS, array_of, over_tasks
from homolog.models.scan.inputs import MatrixInputs, ScanGradients, slots

BLOCK = 128  # value channels of a task
CHUNK = 32  # positions recomputed together in the backward pass


def forward(
    inputs: MatrixInputs, initial_state: Tensor | None, read: list[int], keep_chunks: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, the last state, the states at the ascending positions `read`, and those entering chunks.

    Shapes as in the scans; chunks: (batch, chunk or 0, head, d_k, d_v).
    """
    given, beta = _arrays(inputs)
    v = given[2]
    batch, length, heads, d_v = v.shape
    state = (heads, inputs.k.shape[3], d_v)
    n_chunks = math.ceil(length / CHUNK) if keep_chunks else 0
    y, last = np.empty_like(v), np.zeros((batch, *state), v.dtype)
    if initial_state is not None:
        last[:] = array_of(initial_state)
    states = np.empty((batch, len(read), *state), v.dtype)
    chunks = np.empty((batch, n_chunks, *state), v.dtype)
    arrays = (given, beta, y, last, slots(read, length), states, chunks)
    over_tasks(batch * heads, d_v, BLOCK, lambda row, lo, hi: _forward(row, lo, hi, *arrays))
    y_, last_, states_, chunks_ = (torch.from_numpy(a) for a in (y, last, states, chunks))
    return y_, last_, states_, chunks_


def backward(
    inputs: MatrixInputs, chunks: Tensor, read: list[int], of: ScanGradients
) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs and the initial state from those of what `forward` returned."""
    given, beta = _arrays(inputs)
    _, k, v, decay = given
    batch, length, heads, d_v = v.shape
    d_k, n_blocks = k.shape[3], math.ceil(d_v / BLOCK)
    g = np.zeros((batch, heads, d_k, d_v), v.dtype)
    if of.last_state is not None:
        g[:] = array_of(of.last_state)
    if of.states is None:
        dstates, at = np.empty((batch, 0, heads, d_k, d_v), v.dtype), slots([], length)
    else:
        dstates, at = array_of(of.states), slots(read, length)
    # sums over value channels are kept by block, so that their order is always the same
    dv = np.empty_like(v)
    dq, dk = (np.empty((n_blocks, batch, length, heads, d_k), v.dtype) for _ in range(2))
    dbeta = np.zeros((n_blocks, batch, length, heads), v.dtype)
    dlog = np.zeros((n_blocks if decay.ndim == 4 else 1, *decay.shape), v.dtype)
    arrays = (given, beta, chunks.numpy(), at, array_of(of.y), dstates, g)
    grads = (dq, dk, dv, dlog, dbeta)
    over_tasks(
        batch * heads,
        d_v,
        BLOCK,
        lambda row, lo, hi: _backward(row, lo, hi, *arrays, grads),
    )
    grouped = (batch, length, k.shape[2], -1, d_k)
    dq, dk = (a.sum(0).reshape(grouped).sum(3) for a in (dq, dk))
    dlog = dlog.sum(0).reshape(inputs.log_decay.shape)
    dq_, dk_, dv_, dlog_, dbeta_, g_ = map(torch.from_numpy, (dq, dk, dv, dlog, dbeta.sum(0), g))
    return dq_, dk_, dv_, dlog_, None if beta is None else dbeta_, g_


def _arrays(inputs: MatrixInputs) -> tuple[tuple[np.ndarray, ...], np.ndarray | None]:
    """q, k, v and the decays, and beta; decays that no value channel differs in lack that axis."""
    decay = array_of(torch.exp(inputs.log_decay.detach()))
    if decay.shape[4] == 1:
        decay = decay[..., 0]
    q, k, v = map(array_of, inputs[:3])
    return (q, k, v, decay), None if inputs.beta is None else array_of(inputs.beta)


@jit(**OPTIONS)
def _at(decay, i, j):  # type: ignore[no-untyped-def]
    """The decay of row i and column j; which of the two is known when compiled."""
    if decay.ndim == 1:
        return decay[i]
    return decay[i, j]


@jit(**OPTIONS)
def _recall(S, decay, step, lo, k, p):  # type: ignore[no-untyped-def]
    """p <- (decay * S)^T k."""
    n_k, width = S.shape
    n_even = n_k - n_k % 2
    p[:] = 0
    # two rows at a time: half as many loads and stores of p
    for i in range(0, n_even, 2):
        k_0, k_1 = k[i], k[i + 1]
        for j in range(width):
            s_0 = _at(decay, i * step, lo + j) * S[i, j]
            s_1 = _at(decay, (i + 1) * step, lo + j) * S[i + 1, j]
            p[j] += k_0 * s_0 + k_1 * s_1
    for i in range(n_even, n_k):
        for j in range(width):
            p[j] += k[i] * (_at(decay, i * step, lo + j) * S[i, j])


@jit(**OPTIONS)
def _step(S, decay, step, lo, k, write, q, y):  # type: ignore[no-untyped-def]
    """S <- decay * S + k write^T, in place, and y <- S^T q."""
    n_k, width = S.shape
    n_even = n_k - n_k % 2
    y[:] = 0
    for i in range(0, n_even, 2):
        k_0, k_1, q_0, q_1 = k[i], k[i + 1], q[i], q[i + 1]
        for j in range(width):
            s_0 = _at(decay, i * step, lo + j) * S[i, j] + k_0 * write[j]
            s_1 = _at(decay, (i + 1) * step, lo + j) * S[i + 1, j] + k_1 * write[j]
            S[i, j] = s_0
            S[i + 1, j] = s_1
            y[j] += q_0 * s_0 + q_1 * s_1
    for i in range(n_even, n_k):
        for j in range(width):
            s = _at(decay, i * step, lo + j) * S[i, j] + k[i] * write[j]
            S[i, j] = s
            y[j] += q[i] * s


@jit(**OPTIONS)
def _forward(row, lo, hi, inputs, beta, y, last, slots, states, chunks):  # type: ignore[no-untyped-def]
    q, k, v, decay = inputs
    heads, width = v.shape[2], hi - lo
    b, h = row // heads, row % heads
    group = h // (heads // k.shape[2])
    step = 0 if decay.shape[3] == 1 else 1  # one decay for all rows of the state, or one for each
    S = last[b, h, :, lo:hi].copy()
    write = np.empty(width, v.dtype)
    y_t = np.empty(width, v.dtype)
    for t in range(v.shape[1]):
        if chunks.shape[1] > 0 and t % CHUNK == 0:
            chunks[b, t // CHUNK, h, :, lo:hi] = S
        a, k_t, v_t = decay[b, t, h], k[b, t, group], v[b, t, h, lo:hi]
        if beta is None:
            write[:] = v_t
        else:
            _recall(S, a, step, lo, k_t, write)
            for j in range(width):
                write[j] = beta[b, t, h] * (v_t[j] - write[j])
        _step(S, a, step, lo, k_t, write, q[b, t, group], y_t)
        y[b, t, h, lo:hi] = y_t
        if slots[t] >= 0:
            states[b, slots[t], h, :, lo:hi] = S
    last[b, h, :, lo:hi] = S


@jit(**OPTIONS)
def _apply(S, x, out):  # type: ignore[no-untyped-def]
    """out <- S x."""
    for i in range(S.shape[0]):
        total = S.dtype.type(0)
        for j in range(S.shape[1]):
            total += S[i, j] * x[j]
        out[i] = total


@jit(**OPTIONS)
def _descend(S, g, decay, step, lo, k, dp, dk, dlog):  # type: ignore[no-untyped-def]
    """g <- the gradient of the state S before, in place; adds to dk and dlog.

    dp is the gradient of what the delta rule recalled, or None.
    """
    n_k, width = S.shape
    for i in range(n_k):
        k_i = k[i]
        sum_k = S.dtype.type(0)
        sum_log = S.dtype.type(0)
        for j in range(width):
            a = _at(decay, i * step, lo + j)
            s = a * S[i, j]
            g_ij = g[i, j]
            if dp is not None:
                g_ij += k_i * dp[j]
                sum_k += s * dp[j]
            if decay.ndim == 1:
                sum_log += g_ij * s
            else:
                dlog[i * step, lo + j] += g_ij * s
            g[i, j] = a * g_ij
        if dp is not None:
            dk[i] += sum_k
        if decay.ndim == 1:
            dlog[i * step] += sum_log


# One kernel, since both passes over a chunk, its states forward and its gradients back, share the
# states, which stay in cache.
@jit(**OPTIONS)
def _backward(row, lo, hi, inputs, beta, chunks, slots, dy, dstates, g_out, grads):  # type: ignore[no-untyped-def]
    q, k, v, decay = inputs
    dq, dk, dv, dlog, dbeta = grads
    length, heads, width, n_k = v.shape[1], v.shape[2], hi - lo, k.shape[3]
    b, h = row // heads, row % heads
    group = h // (heads // k.shape[2])
    step = 0 if decay.shape[3] == 1 else 1
    part = lo // BLOCK
    log_part = min(part, dlog.shape[0] - 1)
    g = g_out[b, h, :, lo:hi].copy()  # gradient that reaches S[t] from later positions
    # before[i]: the state that enters position i of the chunk; wrong[i]: what is to be written
    # there, for the delta rule before it is scaled by beta
    before = np.empty((CHUNK + 1, n_k, width), v.dtype)
    wrong = np.empty((CHUNK, width), v.dtype)
    write = np.empty(width, v.dtype)
    dwrite = np.empty(width, v.dtype)
    unused = np.empty(width, v.dtype)
    one = np.ones(1, v.dtype)
    for chunk in range(chunks.shape[1] - 1, -1, -1):
        start = chunk * CHUNK
        stop = min(start + CHUNK, length)
        before[0] = chunks[b, chunk, h, :, lo:hi]
        for t in range(start, stop):
            a, k_t, S = decay[b, t, h], k[b, t, group], before[t - start + 1]
            S[:] = before[t - start]
            wrong[t - start] = v[b, t, h, lo:hi]
            write[:] = wrong[t - start]
            if beta is not None:
                _recall(S, a, step, lo, k_t, write)
                for j in range(width):
                    wrong[t - start, j] -= write[j]
                    write[j] = beta[b, t, h] * wrong[t - start, j]
            _step(S, a, step, lo, k_t, write, k_t, unused)
        for t in range(stop - 1, start - 1, -1):
            a, k_t, q_t = decay[b, t, h], k[b, t, group], q[b, t, group]
            dy_t, dk_t, dlog_t = dy[b, t, h, lo:hi], dk[part, b, t, h], dlog[log_part, b, t, h]
            S, S_before, wrong_t = before[t - start + 1], before[t - start], wrong[t - start]
            if slots[t] >= 0:
                g += dstates[b, slots[t], h, :, lo:hi]
            write[:] = wrong_t
            if beta is not None:
                for j in range(width):
                    write[j] *= beta[b, t, h]
            _step(g, one, 0, lo, q_t, dy_t, k_t, dwrite)  # g += q dy^T, dwrite = g^T k
            _apply(S, dy_t, dq[part, b, t, h])
            _apply(g, write, dk_t)
            if beta is None:
                dv[b, t, h, lo:hi] = dwrite
                _descend(S_before, g, a, step, lo, k_t, None, dk_t, dlog_t)
            else:
                total = v.dtype.type(0)
                for j in range(width):
                    total += dwrite[j] * wrong_t[j]
                    dwrite[j] *= beta[b, t, h]
                    dv[b, t, h, lo + j] = dwrite[j]
                    dwrite[j] = -dwrite[j]
                dbeta[part, b, t, h] = total
                _descend(S_before, g, a, step, lo, k_t, dwrite, dk_t, dlog_t)
    g_out[b, h, :, lo:hi] = g
