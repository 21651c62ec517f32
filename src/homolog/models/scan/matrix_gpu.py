"""Linear attention and the delta rule in Triton (equations in `matrix.py`).

A program is one batch row, one head and one block of value channels; its columns of the state, a
tile (key channel, value channel), stay in registers over all positions.  The backward pass writes
the states of a chunk of positions, recomputed from the state at its start, to a scratch area of its
own and walks back over them.  Sums over value channels are kept per block and added afterwards, so
that the result does not depend on the order in which programs run.  With TRITON_INTERPRET=1 the
kernels run on CPU tensors, slowly, for tests.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from homolog.models.scan.gpu import on_device_of, slots_on
from homolog.models.scan.inputs import MatrixInputs, ScanGradients

TILE = 4096  # numbers of a program's state, where its columns allow that
CHUNK = 32  # positions recomputed together in the backward pass
WARPS = 4


@triton.jit
def _decay_of(log_decay, row, i, j, d_k, d_v, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """exp(log_decay) of one position and head, of a shape that is broadcast over the tile."""
    if ROWS and COLUMNS:
        at = log_decay + row * d_k * d_v + i[:, None] * d_v + j[None, :]
        inside = (i < d_k)[:, None] & (j < d_v)[None, :]
        a = tl.exp(tl.load(at, mask=inside, other=0.0))
    elif ROWS:
        a = tl.exp(tl.load(log_decay + row * d_k + i, mask=i < d_k, other=0.0))[:, None]
    elif COLUMNS:
        a = tl.exp(tl.load(log_decay + row * d_v + j, mask=j < d_v, other=0.0))[None, :]
    else:
        a = tl.exp(tl.load(log_decay + row))
    return a


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    q,
    k,
    v,
    log_decay,
    beta,
    y,
    last,  # in: the initial state; out: the last
    slots,
    states,
    chunks,
    length,
    heads,
    groups,
    d_k,
    d_v,
    n_read,
    n_chunks,
    KEEP: tl.constexpr,
    DELTA: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    K: tl.constexpr,
):
    batch_head = tl.program_id(0).to(tl.int64)
    b, h = batch_head // heads, batch_head % heads
    group = h // (heads // groups)
    i, j = tl.arange(0, K), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_i, in_j = i < d_k, j < d_v
    inside = in_i[:, None] & in_j[None, :]
    tile = i[:, None] * d_v + j[None, :]
    size = d_k * d_v
    S = tl.load(last + batch_head * size + tile, mask=inside, other=0.0)
    for t in range(length):
        if KEEP:  # noqa: SIM102 - known when compiled: without it no test is left in the loop
            if t % CHUNK == 0:
                entering = ((b * n_chunks + t // CHUNK) * heads + h) * size
                tl.store(chunks + entering + tile, S, mask=inside)
        row = (b * length + t) * heads + h
        key = ((b * length + t) * groups + group) * d_k
        q_t = tl.load(q + key + i, mask=in_i, other=0.0)
        k_t = tl.load(k + key + i, mask=in_i, other=0.0)
        write = tl.load(v + row * d_v + j, mask=in_j, other=0.0)
        S = _decay_of(log_decay, row, i, j, d_k, d_v, ROWS, COLUMNS) * S
        if DELTA:
            write = tl.load(beta + row) * (write - tl.sum(S * k_t[:, None], axis=0))
        S = S + k_t[:, None] * write[None, :]
        tl.store(y + row * d_v + j, tl.sum(S * q_t[:, None], axis=0), mask=in_j)
        slot = tl.load(slots + t)
        if slot >= 0:
            tl.store(states + ((b * n_read + slot) * heads + h) * size + tile, S, mask=inside)
    tl.store(last + batch_head * size + tile, S, mask=inside)


# One kernel, and long: both passes over a chunk, its states forward and its gradients back, share
# the tiles that stay in registers, and a kernel cannot hand those to another.
@triton.jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    q,
    k,
    v,
    log_decay,
    beta,
    chunks,
    slots,
    dy,
    dstates,
    g_io,  # in: the gradient of the last state; out: that of the initial state
    dq,
    dk,
    dv,
    dlog,
    dbeta,
    scratch,
    length,
    heads,
    groups,
    d_k,
    d_v,
    n_read,
    n_chunks,
    DELTA: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    K: tl.constexpr,
):
    batch_head = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1).to(tl.int64)
    b, h = batch_head // heads, batch_head % heads
    group = h // (heads // groups)
    i, j = tl.arange(0, K), block * BLOCK + tl.arange(0, BLOCK)
    in_i, in_j = i < d_k, j < d_v
    inside = in_i[:, None] & in_j[None, :]
    tile = i[:, None] * d_v + j[None, :]
    size = d_k * d_v
    partial = block * tl.num_programs(0) * length  # rows of the blocks before
    own = scratch + (batch_head * tl.num_programs(1) + block) * CHUNK * K * BLOCK
    own_tile = i[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    g = tl.load(g_io + batch_head * size + tile, mask=inside, other=0.0)
    for c in range(n_chunks):
        chunk = n_chunks - 1 - c
        entering = ((b * n_chunks + chunk) * heads + h) * size
        S = tl.load(chunks + entering + tile, mask=inside, other=0.0)
        within = min(CHUNK, length - chunk * CHUNK)
        for n in range(within):
            row = (b * length + chunk * CHUNK + n) * heads + h
            key = ((b * length + chunk * CHUNK + n) * groups + group) * d_k
            k_t = tl.load(k + key + i, mask=in_i, other=0.0)
            write = tl.load(v + row * d_v + j, mask=in_j, other=0.0)
            tl.store(own + n * K * BLOCK + own_tile, S)
            S = _decay_of(log_decay, row, i, j, d_k, d_v, ROWS, COLUMNS) * S
            if DELTA:
                write = tl.load(beta + row) * (write - tl.sum(S * k_t[:, None], axis=0))
            S = S + k_t[:, None] * write[None, :]
        tl.debug_barrier()  # another thread of the program may read what this one wrote
        for m in range(within):
            n = within - 1 - m
            t = chunk * CHUNK + n
            row = (b * length + t) * heads + h
            key = ((b * length + t) * groups + group) * d_k
            q_t = tl.load(q + key + i, mask=in_i, other=0.0)
            k_t = tl.load(k + key + i, mask=in_i, other=0.0)
            write = tl.load(v + row * d_v + j, mask=in_j, other=0.0)
            dy_t = tl.load(dy + row * d_v + j, mask=in_j, other=0.0)
            a = _decay_of(log_decay, row, i, j, d_k, d_v, ROWS, COLUMNS)
            S = a * tl.load(own + n * K * BLOCK + own_tile)
            slot = tl.load(slots + t)
            if slot >= 0:
                taken = ((b * n_read + slot) * heads + h) * size
                g += tl.load(dstates + taken + tile, mask=inside, other=0.0)
            g += q_t[:, None] * dy_t[None, :]
            dwrite = tl.sum(g * k_t[:, None], axis=0)
            if DELTA:
                beta_t = tl.load(beta + row)
                wrong = write - tl.sum(S * k_t[:, None], axis=0)
                write = beta_t * wrong
                tl.store(dbeta + partial + row, tl.sum(dwrite * wrong))
                dwrite = beta_t * dwrite
            dk_t = tl.sum(g * write[None, :], axis=1)
            after = S + k_t[:, None] * write[None, :]
            at = (partial + row) * d_k + i
            tl.store(dq + at, tl.sum(after * dy_t[None, :], axis=1), mask=in_i)
            if DELTA:
                dk_t -= tl.sum(S * dwrite[None, :], axis=1)
                g -= k_t[:, None] * dwrite[None, :]
            tl.store(dk + at, dk_t, mask=in_i)
            tl.store(dv + row * d_v + j, dwrite, mask=in_j)
            dlog_t = g * S
            if ROWS and COLUMNS:
                tl.store(dlog + row * size + tile, dlog_t, mask=inside)
            elif ROWS:
                tl.store(dlog + at, tl.sum(dlog_t, axis=1), mask=in_i)
            elif COLUMNS:
                tl.store(dlog + row * d_v + j, tl.sum(dlog_t, axis=0), mask=in_j)
            else:
                tl.store(dlog + partial + row, tl.sum(tl.sum(dlog_t, axis=1), axis=0))
            g = a * g
        tl.debug_barrier()  # the next chunk overwrites the scratch area
    tl.store(g_io + batch_head * size + tile, g, mask=inside)


def forward(
    inputs: MatrixInputs, initial_state: Tensor | None, read: list[int], keep_chunks: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, the last state, the states at the ascending positions `read`, and those entering chunks.

    Shapes as in the scans; chunks: (batch, chunk or 0, head, d_k, d_v).
    """
    given = _tensors(inputs)
    v, (batch, length, heads, d_v) = given[2], inputs.v.shape
    state = (heads, inputs.k.shape[3], d_v)
    y, last = torch.empty_like(v), v.new_zeros(batch, *state)
    if initial_state is not None:
        last.copy_(initial_state.detach())
    states = v.new_empty(batch, len(read), *state)
    n_chunks = triton.cdiv(length, CHUNK) if keep_chunks else 0
    chunks = v.new_empty(batch, n_chunks, *state)
    sizes = (*_sizes(inputs), len(read), n_chunks)
    constants = _constants(inputs)
    if batch:
        with on_device_of(v):
            _forward_kernel[(batch * heads, triton.cdiv(d_v, constants["BLOCK"]))](  # pyright: ignore[reportIndexIssue]
                *(*given, y, last, slots_on(read, length, v), states, chunks, *sizes),
                KEEP=keep_chunks,
                **constants,
            )
    return y, last, states, chunks


def backward(
    inputs: MatrixInputs, chunks: Tensor, read: list[int], of: ScanGradients
) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs and the initial state from those of what `forward` returned."""
    given = _, k, v, log_decay, _ = _tensors(inputs)
    (batch, length, heads, d_v), d_k = v.shape, k.shape[3]
    constants = _constants(inputs)
    n_blocks = triton.cdiv(d_v, constants["BLOCK"])
    g = v.new_zeros(batch, heads, d_k, d_v)
    if of.last_state is not None:
        g.copy_(of.last_state)
    dv = torch.empty_like(v)
    dq, dk = (v.new_empty(n_blocks, batch, length, heads, d_k) for _ in range(2))
    dbeta = v.new_empty(n_blocks, batch, length, heads)
    # a decay of each value channel is one block's alone
    dlog = v.new_empty(1 if constants["COLUMNS"] else n_blocks, *log_decay.shape)
    scratch = v.new_empty(batch, heads, n_blocks, CHUNK, constants["K"], constants["BLOCK"])
    at = slots_on([] if of.states is None else read, length, v)
    dstates = g if of.states is None else of.states.contiguous()
    sizes = (*_sizes(inputs), len(read), chunks.shape[1])
    if batch:
        with on_device_of(v):
            _backward_kernel[(batch * heads, n_blocks)](  # pyright: ignore[reportIndexIssue]
                *(*given, chunks, at, of.y.detach().contiguous(), dstates, g),
                *(dq, dk, dv, dlog, dbeta, scratch, *sizes),
                **constants,
            )
    grouped = (batch, length, k.shape[2], heads // k.shape[2], d_k)
    dq, dk = (x.sum(0).reshape(grouped).sum(3) for x in (dq, dk))
    return dq, dk, dv, dlog.sum(0), None if inputs.beta is None else dbeta.sum(0), g


def _tensors(inputs: MatrixInputs) -> list[Tensor]:
    """The inputs as the kernels read them; linear attention reads no beta, v stands for it."""
    given = [inputs.v if t is None else t for t in inputs]
    return [t.detach().contiguous() for t in given]


def _sizes(inputs: MatrixInputs) -> tuple[int, ...]:
    """length, heads, groups, d_k, d_v."""
    return *inputs.v.shape[1:3], *inputs.k.shape[2:], inputs.v.shape[3]


def _constants(inputs: MatrixInputs) -> dict[str, Any]:
    """What the kernels are compiled for: a decay of one row is that of all where d_k = 1."""
    d_k, d_v = inputs.k.shape[3], inputs.v.shape[3]
    K = triton.next_power_of_2(d_k)
    return {
        "DELTA": inputs.beta is not None,
        "ROWS": inputs.log_decay.shape[3] > 1,
        "COLUMNS": inputs.log_decay.shape[4] > 1,
        "CHUNK": CHUNK,
        "BLOCK": min(triton.next_power_of_2(d_v), max(TILE // K, 16), 128),
        "K": K,
        "num_warps": WARPS,
        "enable_fp_fusion": True,
    }
