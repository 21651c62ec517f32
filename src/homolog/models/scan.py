"""Selective scan: the recurrence of Mamba-1, forward and backward, with every state readable.

For each batch row, channel d and state dimension n, with h[-1] the initial state (zero unless given):

    h[t, d, n] = exp(dt[t, d] * A[d, n]) * h[t-1, d, n] + dt[t, d] * B[t, n] * u[t, d]
    y[t, d]    = sum over n of C[t, n] * h[t, d, n]

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, algorithm 2, with the
simplified discretisation of B that all released Mamba models use.

Backends
    numba   CPU.  A task is one batch row and one block of channels; its state (d_state x block) stays in the
            first-level cache, the inner loop runs over channels and vectorises.  The backward pass keeps the
            state at the start of every chunk of positions and recomputes the states inside the chunk.
    torch   any device: one tensor operation per position, differentiable by autograd.  Slow; the reference.
The backend follows the device unless it is named.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numba
import numpy as np
import torch
from jaxtyping import Float
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from torch import Tensor

from homolog.errors import InputError

BLOCK = 64  # channels of a task: 16 state dimensions x 64 channels x 4 bytes = 4 KiB of state
CHUNK = 32  # positions recomputed together in the backward pass: 2 x 128 KiB of states and decays


@dataclass(frozen=True)
class ScanResult:
    """y: (batch, position, d_inner); last_state: (batch, d_inner, d_state).

    states: (batch, position, d_inner, d_state), or None where they were not asked for.
    """

    y: Tensor
    last_state: Tensor
    states: Tensor | None


def selective_scan(
    u: Float[Tensor, "batch position d_inner"],
    dt: Float[Tensor, "batch position d_inner"],
    A: Float[Tensor, "d_inner d_state"],
    B: Float[Tensor, "batch position d_state"],
    C: Float[Tensor, "batch position d_state"],
    initial_state: Float[Tensor, "batch d_inner d_state"] | None = None,
    return_states: bool = False,
    backend: Literal["numba", "torch"] | None = None,
) -> ScanResult:
    """Run the recurrence of the module docstring.

    u is the SSM input (after convolution and SiLU), dt the step after softplus, A negative; all float32 or float64.
    Gradients flow to u, dt, A, B, C (and, on the torch backend, to everything); with `return_states` or an
    `initial_state` that needs a gradient, the torch backend is required for gradients.
    Errors: InputError when an initial state has a wrong shape or dtypes differ.
    """
    batch, _, d_inner = u.shape
    expected = (batch, d_inner, A.shape[1])
    if initial_state is not None and tuple(initial_state.shape) != expected:
        raise InputError(
            "initial_state",
            tuple(initial_state.shape),
            f"the scan needs the shape {expected}",
            "Pass (batch, d_inner, d_state), or None for zeros.",
        )
    dtypes = {t.dtype for t in (u, dt, A, B, C)}
    if len(dtypes) != 1:
        raise InputError("dtype", sorted(map(str, dtypes)), "u, dt, A, B and C must share one", "Convert them first.")
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (u, dt, A, B, C))
    if backend is None:
        state_grad = needs_grad and (return_states or (initial_state is not None and initial_state.requires_grad))
        backend = "numba" if u.device.type == "cpu" and not state_grad else "torch"
    if backend == "torch":
        return _scan_torch(u, dt, A, B, C, initial_state, return_states)
    if needs_grad:
        y, last = _Scan.apply(u, dt, A, B, C, initial_state)  # type: ignore[misc]
        return ScanResult(y, last, None)
    return _scan_numba(u, dt, A, B, C, initial_state, return_states)[0]


def _scan_torch(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor | None, return_states: bool
) -> ScanResult:
    batch, length, d_inner = u.shape
    h = u.new_zeros(batch, d_inner, A.shape[1]) if initial_state is None else initial_state
    ys, states = [], []
    for t in range(length):
        decay = torch.exp(dt[:, t, :, None] * A)
        h = decay * h + (dt[:, t] * u[:, t])[..., None] * B[:, t, None, :]
        ys.append((h * C[:, t, None, :]).sum(-1))
        if return_states:
            states.append(h)
    return ScanResult(torch.stack(ys, 1), h, torch.stack(states, 1) if return_states else None)


def _scan_numba(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial_state: Tensor | None,
    return_states: bool,
    keep_chunks: bool = False,
) -> tuple[ScanResult, np.ndarray]:
    u_, dt_, B_, C_ = (_array(t) for t in (u, dt, B, C))
    A_T = np.ascontiguousarray(_array(A).T)
    batch, length, d_inner = u_.shape
    d_state = A_T.shape[0]
    y = np.empty_like(u_)
    last = np.zeros((batch, d_state, d_inner), u_.dtype)
    if initial_state is not None:
        last[:] = _array(initial_state).transpose(0, 2, 1)
    states = np.empty((batch, length if return_states else 0, d_state, d_inner), u_.dtype)
    n_chunks = math.ceil(length / CHUNK) if keep_chunks else 0
    chunks = np.empty((batch, n_chunks, d_state, d_inner), u_.dtype)
    _over_tasks(batch, d_inner, lambda b, lo, hi: _forward(b, lo, hi, u_, dt_, A_T, B_, C_, y, last, states, chunks))
    out_states = torch.from_numpy(states).transpose(2, 3) if return_states else None
    return ScanResult(torch.from_numpy(y), torch.from_numpy(last).transpose(1, 2), out_states), chunks


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        result, chunks = _scan_numba(u, dt, A, B, C, initial_state, False, keep_chunks=True)
        ctx.save_for_backward(u, dt, A, B, C)
        ctx.chunks = chunks
        ctx.mark_non_differentiable(result.last_state)
        return result.y, result.last_state

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        u, dt, A, B, C = ctx.saved_tensors
        u_, dt_, B_, C_, dy_ = (_array(t) for t in (u, dt, B, C, dy))
        A_T = np.ascontiguousarray(_array(A).T)
        batch, _, d_inner = u_.shape
        n_blocks = math.ceil(d_inner / BLOCK)
        du, ddt = np.empty_like(u_), np.empty_like(u_)
        dA = np.zeros((batch, *A_T.shape), u_.dtype)
        dB, dC = (np.zeros((n_blocks, *B_.shape), u_.dtype) for _ in range(2))
        _over_tasks(
            batch,
            d_inner,
            lambda b, lo, hi: _backward(
                b, lo, hi, lo // BLOCK, u_, dt_, A_T, B_, C_, dy_, ctx.chunks, du, ddt, dA, dB, dC
            ),
        )
        grads = (du, ddt, dA.sum(0).T, dB.sum(0), dC.sum(0))
        return (*(torch.from_numpy(np.ascontiguousarray(g)) for g in grads), None)


def _array(t: Tensor) -> np.ndarray:
    return t.detach().contiguous().numpy()


def _over_tasks(batch: int, d_inner: int, task: Callable[[int, int, int], None]) -> None:
    """Run task(batch row, first channel, end channel) for all, on as many threads as torch uses."""
    tasks = [(b, lo, min(lo + BLOCK, d_inner)) for b in range(batch) for lo in range(0, d_inner, BLOCK)]
    threads = min(torch.get_num_threads(), len(tasks))
    if threads == 1:
        for t in tasks:
            task(*t)
        return
    shares = [tasks[i::threads] for i in range(threads)]
    list(_pool(threads).map(lambda share: [task(*t) for t in share], shares))


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


@numba.njit(fastmath={"contract"})  # no reassociation: the rounding below is (t + big) - big
def _exp32(x):  # type: ignore[no-untyped-def]
    """exp in float32 without a call, so that the loop around it vectorises: 2^k times a polynomial of 2^f, |f| <= 1/2.

    Relative error below 5e-7 + 8e-8 |x| for -87 < x < 88 (the rounding of x * log2(e)); below that it returns the
    smallest normal number, about 1e-38.  Coefficients: Taylor series of 2^f to degree 6, remainder 2e-8.
    """
    t = max(x * np.float32(1.4426950408889634), np.float32(-126.0))
    shifted = t + np.float32(12582912.0)  # 1.5 * 2^23: rounds t to an integer, kept in the low mantissa bits
    f = t - (shifted - np.float32(12582912.0))
    p = np.float32(1.5403530e-4)
    p = p * f + np.float32(1.3333558e-3)
    p = p * f + np.float32(9.6181291e-3)
    p = p * f + np.float32(5.5504109e-2)
    p = p * f + np.float32(2.4022651e-1)
    p = p * f + np.float32(6.9314718e-1)
    p = p * f + np.float32(1.0)
    return p * _float_of(np.int32((_int_of(shifted) + np.int32(127 - 0x4B400000)) << np.int32(23)))


def _exp(x: Any) -> Any:
    raise TypeError("only compiled code calls this")


@overload(_exp)
def _exp_by_type(x):  # type: ignore[no-untyped-def]
    if x == types.float32:
        return lambda x: _exp32(x)
    return lambda x: math.exp(x)


# Contraction to fused multiply-adds and reassociation of the sums over channels; NaN and infinity keep their meaning.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz"},
}


@numba.njit(**_OPTIONS)
def _step(h, decay, dt, du, A_T, B, n_state):  # type: ignore[no-untyped-def]
    """h <- decay * h + du * B, in place, with decay = exp(dt * A) written too."""
    width = dt.shape[0]
    for n in range(n_state):
        b = B[n]
        for i in range(width):
            a = _exp(dt[i] * A_T[n, i])
            decay[n, i] = a
            h[n, i] = a * h[n, i] + du[i] * b


@numba.njit(**_OPTIONS)
def _forward(b, lo, hi, u, dt, A_T, B, C, y, last, states, chunks):  # type: ignore[no-untyped-def]
    n_state, width = A_T.shape[0], hi - lo
    A_ = A_T[:, lo:hi].copy()
    h = last[b, :, lo:hi].copy()
    du = np.empty(width, u.dtype)
    acc = np.empty(width, u.dtype)
    for t in range(u.shape[1]):
        if chunks.shape[1] > 0 and t % CHUNK == 0:
            chunks[b, t // CHUNK, :, lo:hi] = h
        dt_t = dt[b, t, lo:hi]
        u_t = u[b, t, lo:hi]
        for i in range(width):
            du[i] = dt_t[i] * u_t[i]
            acc[i] = 0
        for n in range(n_state):
            b_n, c_n = B[b, t, n], C[b, t, n]
            for i in range(width):
                new = _exp(dt_t[i] * A_[n, i]) * h[n, i] + du[i] * b_n
                h[n, i] = new
                acc[i] += new * c_n
        y[b, t, lo:hi] = acc
        if states.shape[1] > 0:
            states[b, t, :, lo:hi] = h
    last[b, :, lo:hi] = h


@numba.njit(**_OPTIONS)
def _backward(b, lo, hi, block, u, dt, A_T, B, C, dy, chunks, du_out, ddt_out, dA, dB, dC):  # type: ignore[no-untyped-def]
    n_state, width, length = A_T.shape[0], hi - lo, u.shape[1]
    A_ = A_T[:, lo:hi].copy()
    before = np.empty(
        (CHUNK + 1, n_state, width), u.dtype
    )  # before[i] is the state that enters position i of the chunk
    decay = np.empty((CHUNK, n_state, width), u.dtype)
    g = np.zeros((n_state, width), u.dtype)  # gradient that reaches h[t] from later positions
    dA_ = np.zeros((n_state, width), u.dtype)
    du = np.empty(width, u.dtype)
    ddu = np.empty(width, u.dtype)
    ddt = np.empty(width, u.dtype)
    for chunk in range(chunks.shape[1] - 1, -1, -1):
        start = chunk * CHUNK
        stop = min(start + CHUNK, length)
        before[0] = chunks[b, chunk, :, lo:hi]
        for t in range(start, stop):
            k = t - start
            for i in range(width):
                du[i] = dt[b, t, lo + i] * u[b, t, lo + i]
            before[k + 1] = before[k]
            _step(before[k + 1], decay[k], dt[b, t, lo:hi], du, A_, B[b, t], n_state)
        for t in range(stop - 1, start - 1, -1):
            k = t - start
            dt_t = dt[b, t, lo:hi]
            u_t = u[b, t, lo:hi]
            dy_t = dy[b, t, lo:hi]
            for i in range(width):
                du[i] = dt_t[i] * u_t[i]
                ddu[i] = 0
                ddt[i] = 0
            for n in range(n_state):
                b_n, c_n = B[b, t, n], C[b, t, n]
                sum_b = u.dtype.type(0)
                sum_c = u.dtype.type(0)
                for i in range(width):
                    gh = g[n, i] + dy_t[i] * c_n
                    sum_c += dy_t[i] * before[k + 1, n, i]
                    sum_b += gh * du[i]
                    ddu[i] += gh * b_n
                    ga = gh * decay[k, n, i]
                    g[n, i] = ga
                    dlog = ga * before[k, n, i]  # gradient of dt * A
                    ddt[i] += dlog * A_[n, i]
                    dA_[n, i] += dlog * dt_t[i]
                dB[block, b, t, n] = sum_b
                dC[block, b, t, n] = sum_c
            for i in range(width):
                du_out[b, t, lo + i] = ddu[i] * dt_t[i]
                ddt_out[b, t, lo + i] = ddt[i] + ddu[i] * u_t[i]
    dA[b, :, lo:hi] = dA_
