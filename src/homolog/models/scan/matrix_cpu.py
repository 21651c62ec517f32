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
BACKWARD_BLOCK = 32
CHUNK = 32  # positions recomputed together in the backward pass: for d_k = 128 half a megabyte


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
