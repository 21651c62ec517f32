"""The selective scan in numba (equations in `selective.py`).

A task is one batch row and one block of channels; its state (d_state x block) stays in the
first-level cache, and the inner loop runs over channels and vectorises, the exponential included.
The backward pass keeps the state at the start of every chunk of positions and recomputes the states
inside the chunk.  Tasks run on as many threads as torch uses; the result does not depend on their
number.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from torch import Tensor

from homolog.compiled import jit
from homolog.models.scan.inputs import ScanGradients, ScanInputs, slots

# channels of a task: 16 state dimensions x 128 channels x 4 bytes = 8 KiB of state, as much of A
BLOCK = 128
BACKWARD_BLOCK = 64
CHUNK = 32  # positions recomputed together in the backward pass: 2 x 128 KiB of states and decays
LOG2_E = math.log2(math.e)


def forward(
    inputs: ScanInputs, initial_state: Tensor | None, read: list[int], keep_chunks: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, the last state, the states at the ascending positions `read`, and those entering chunks.

    Shapes as in `selective_scan`; chunks: (batch, chunk or 0, d_state, d_inner).
    """
    given = u, _, A_T, _, _ = _arrays(inputs)
    (batch, length, d_inner), d_state = u.shape, len(A_T)
    n_chunks = math.ceil(length / CHUNK) if keep_chunks else 0
    y, last = np.empty_like(u), np.zeros((batch, d_state, d_inner), u.dtype)
    if initial_state is not None:
        last[:] = array_of(initial_state).transpose(0, 2, 1)
    states = np.empty((batch, len(read), d_state, d_inner), u.dtype)
    chunks = np.empty((batch, n_chunks, d_state, d_inner), u.dtype)
    arrays = (given, y, last, slots(read, length), states, chunks)
    over_tasks(batch, d_inner, BLOCK, lambda b, lo, hi: _forward(b, lo, hi, *arrays))
    y_, last_, states_, chunks_ = (torch.from_numpy(a) for a in (y, last, states, chunks))
    return y_, last_.transpose(1, 2), states_.transpose(2, 3), chunks_


def backward(
    inputs: ScanInputs, chunks: Tensor, read: list[int], of: ScanGradients
) -> tuple[Tensor, ...]:
    """Gradients of the inputs and the initial state from those of what `forward` returned."""
    given = u, _, A_T, B, _ = _arrays(inputs)
    batch, length, d_inner = u.shape
    n_blocks = math.ceil(d_inner / BACKWARD_BLOCK)
    du, ddt = np.empty_like(u), np.empty_like(u)
    dA, g = (np.zeros((batch, *A_T.shape), u.dtype) for _ in range(2))
    dB, dC = (np.zeros((n_blocks, *B.shape), u.dtype) for _ in range(2))
    if of.last_state is not None:
        g[:] = array_of(of.last_state).transpose(0, 2, 1)
    if of.states is None:
        dstates, at = np.empty((batch, 0, *A_T.shape), u.dtype), slots([], length)
    else:
        dstates, at = array_of(of.states.transpose(2, 3)), slots(read, length)
    arrays = (given, chunks.numpy(), at, array_of(of.y), dstates, g, (du, ddt, dA, dB, dC))
    over_tasks(batch, d_inner, BACKWARD_BLOCK, lambda b, lo, hi: _backward(b, lo, hi, *arrays))
    grads = (du, ddt, dA.sum(0).T, dB.sum(0), dC.sum(0), g.transpose(0, 2, 1))
    return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in grads)


def array_of(t: Tensor) -> np.ndarray:
    """The numbers of a tensor on the CPU, in order."""
    return t.detach().contiguous().numpy()


def _arrays(inputs: ScanInputs) -> tuple[np.ndarray, ...]:
    """u, dt, A^T, B and C: channels last in all of them that have channels."""
    u, dt, A, B, C = map(array_of, inputs)
    return u, dt, np.ascontiguousarray(A.T), B, C


def over_tasks(batch: int, d_inner: int, block: int, task: Callable[[int, int, int], None]) -> None:
    """Run task(batch row, first channel, end channel) for all, on as many threads as torch uses."""
    starts = range(0, d_inner, block)
    tasks = [(b, lo, min(lo + block, d_inner)) for b in range(batch) for lo in starts]
    threads = min(torch.get_num_threads(), len(tasks))

    def run(share: int) -> None:
        for t in tasks[share::threads]:
            task(*t)

    if threads <= 1:
        for t in tasks:
            task(*t)
        return
    others = [_pool(threads - 1).submit(run, share) for share in range(1, threads)]
    run(0)
    for other in others:
        other.result()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="homolog-scan")


@intrinsic
def _int_of(_typing: Any, x: Any = None) -> Any:
    """The 32 bits of a float32 as an int32."""
    return types.int32(types.float32), lambda _c, b, _s, args: b.bitcast(args[0], ir.IntType(32))


@intrinsic
def _float_of(_typing: Any, x: Any = None) -> Any:
    """32 bits as a float32."""
    return types.float32(types.int32), lambda _c, b, _s, args: b.bitcast(args[0], ir.FloatType())


@jit(fastmath={"contract"})  # no reassociation: the rounding below is (t + big) - big
def _exp2(t):  # type: ignore[no-untyped-def]
    """2^t in float32 without a call, so that the loop around it vectorises.

    It is 2^k times a polynomial of 2^f, |f| <= 1/2.  Exactly 1 at 0.  Below -126 it returns the
    smallest normal number, about 1e-38.  Coefficients: Taylor series of 2^f to degree 6, remainder
    2e-8.
    """
    t = max(t, np.float32(-126.0))
    big = np.float32(12582912.0)  # 1.5 * 2^23: rounds t to an integer, in the low mantissa bits
    shifted = t + big
    f = t - (shifted - big)
    p = np.float32(1.5403530e-4)
    p = p * f + np.float32(1.3333558e-3)
    p = p * f + np.float32(9.6181291e-3)
    p = p * f + np.float32(5.5504109e-2)
    p = p * f + np.float32(2.4022651e-1)
    p = p * f + np.float32(6.9314718e-1)
    p = p * f + np.float32(1.0)
    return p * _float_of(np.int32((_int_of(shifted) + np.int32(127 - 0x4B400000)) << np.int32(23)))


def _rate(A: Any) -> Any:
    raise TypeError("only compiled code calls this")


def _decay(dt: Any, rate: Any) -> Any:
    raise TypeError("only compiled code calls this")


@overload(_rate)
def _rate_by_type(A):  # type: ignore[no-untyped-def]
    """What `_decay` takes: in float32 A log2(e), since powers of 2 are cheap.

    The relative error of a decay exp(x) is then below 5e-7 + 1.6e-7 |x| for -87 < x <= 0.
    """
    if A.dtype == types.float32:
        return lambda A: A * np.float32(LOG2_E)
    return lambda A: A.copy()


@overload(_decay)
def _decay_by_type(dt, rate):  # type: ignore[no-untyped-def]
    if dt == types.float32:
        return lambda dt, rate: _exp2(dt * rate)
    return lambda dt, rate: math.exp(dt * rate)


# Contraction to fused multiply-adds and reassociation of the sums over channels; NaN and infinity
# keep their meaning.
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz"},
}


@jit(**OPTIONS)
def _forward(b, lo, hi, inputs, y, last, slots, states, chunks):  # type: ignore[no-untyped-def]
    u, dt, A_T, B, C = inputs
    n_state, width = A_T.shape[0], hi - lo
    # two state dimensions at a time: a third fewer loads; the odd one out is 0
    n_even = n_state + n_state % 2
    rate = np.zeros((n_even, width), u.dtype)
    rate[:n_state] = _rate(A_T[:, lo:hi])
    h = np.zeros((n_even, width), u.dtype)
    h[:n_state] = last[b, :, lo:hi]
    B_t, C_t = np.zeros(n_even, u.dtype), np.zeros(n_even, u.dtype)
    write = np.empty(width, u.dtype)
    acc = np.empty(width, u.dtype)
    for t in range(u.shape[1]):
        if chunks.shape[1] > 0 and t % CHUNK == 0:
            chunks[b, t // CHUNK, :, lo:hi] = h[:n_state]
        dt_t = dt[b, t, lo:hi]
        u_t = u[b, t, lo:hi]
        B_t[:n_state] = B[b, t]
        C_t[:n_state] = C[b, t]
        for i in range(width):
            write[i] = dt_t[i] * u_t[i]
            acc[i] = 0
        for n in range(0, n_even, 2):
            b_0, b_1, c_0, c_1 = B_t[n], B_t[n + 1], C_t[n], C_t[n + 1]
            for i in range(width):
                h_0 = _decay(dt_t[i], rate[n, i]) * h[n, i] + write[i] * b_0
                h_1 = _decay(dt_t[i], rate[n + 1, i]) * h[n + 1, i] + write[i] * b_1
                h[n, i] = h_0
                h[n + 1, i] = h_1
                acc[i] += h_0 * c_0 + h_1 * c_1
        y[b, t, lo:hi] = acc
        if slots[t] >= 0:
            states[b, slots[t], :, lo:hi] = h[:n_state]
    last[b, :, lo:hi] = h[:n_state]


@jit(**OPTIONS)
def _step(h, decay, dt, write, rate, B):  # type: ignore[no-untyped-def]
    """h <- decay * h + write * B, in place, with the decay written too."""
    width = dt.shape[0]
    for n in range(h.shape[0]):
        b = B[n]
        for i in range(width):
            a = _decay(dt[i], rate[n, i])
            decay[n, i] = a
            h[n, i] = a * h[n, i] + write[i] * b


# One kernel and not several: its loops share the chunk's states and decays, which stay in cache.
@jit(**OPTIONS)
def _backward(b, lo, hi, inputs, chunks, slots, dy, dstates, g_out, grads):  # type: ignore[no-untyped-def]
    u, dt, A_T, B, C = inputs
    du_out, ddt_out, dA, dB, dC = grads
    block = lo // BACKWARD_BLOCK
    n_state, width, length = A_T.shape[0], hi - lo, u.shape[1]
    A_ = A_T[:, lo:hi].copy()
    rate = _rate(A_T[:, lo:hi])
    # before[k]: the state that enters position k of the chunk
    before = np.empty((CHUNK + 1, n_state, width), u.dtype)
    decay = np.empty((CHUNK, n_state, width), u.dtype)
    g = g_out[b, :, lo:hi].copy()  # gradient that reaches h[t] from later positions
    dA_ = np.zeros((n_state, width), u.dtype)
    write = np.empty(width, u.dtype)
    dwrite = np.empty(width, u.dtype)
    ddt = np.empty(width, u.dtype)
    for chunk in range(chunks.shape[1] - 1, -1, -1):
        start = chunk * CHUNK
        stop = min(start + CHUNK, length)
        before[0] = chunks[b, chunk, :, lo:hi]
        for t in range(start, stop):
            k = t - start
            for i in range(width):
                write[i] = dt[b, t, lo + i] * u[b, t, lo + i]
            before[k + 1] = before[k]
            _step(before[k + 1], decay[k], dt[b, t, lo:hi], write, rate, B[b, t])
        for t in range(stop - 1, start - 1, -1):
            k = t - start
            dt_t = dt[b, t, lo:hi]
            u_t = u[b, t, lo:hi]
            dy_t = dy[b, t, lo:hi]
            if slots[t] >= 0:
                g += dstates[b, slots[t], :, lo:hi]
            for i in range(width):
                write[i] = dt_t[i] * u_t[i]
                dwrite[i] = 0
                ddt[i] = 0
            for n in range(n_state):
                b_n, c_n = B[b, t, n], C[b, t, n]
                sum_b = u.dtype.type(0)
                sum_c = u.dtype.type(0)
                for i in range(width):
                    gh = g[n, i] + dy_t[i] * c_n
                    sum_c += dy_t[i] * before[k + 1, n, i]
                    sum_b += gh * write[i]
                    dwrite[i] += gh * b_n
                    ga = gh * decay[k, n, i]
                    g[n, i] = ga
                    dlog = ga * before[k, n, i]  # gradient of dt * A
                    ddt[i] += dlog * A_[n, i]
                    dA_[n, i] += dlog * dt_t[i]
                dB[block, b, t, n] = sum_b
                dC[block, b, t, n] = sum_c
            for i in range(width):
                du_out[b, t, lo + i] = dwrite[i] * dt_t[i]
                ddt_out[b, t, lo + i] = ddt[i] + dwrite[i] * u_t[i]
    dA[b, :, lo:hi] = dA_
    g_out[b, :, lo:hi] = g
