"""The selective scan in Triton (equations in `selective.py`).

A program is one batch row and one block of channels; its state, a tile (channel, state dimension),
stays in registers over all positions.  The backward pass writes the states of a chunk of positions,
recomputed from the state at its start, to a scratch area of its own and walks back over them.  Sums
over channels are kept per block and added afterwards, so that the result does not depend on the
order in which programs run.  With TRITON_INTERPRET=1 the kernels run on CPU tensors, slowly, for
tests.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from homolog.models.scan.inputs import ScanGradients, ScanInputs, slots

BLOCK = 32  # channels of a program
CHUNK = 32  # positions recomputed together in the backward pass
WARPS = 2


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    u,
    dt,
    A,
    B,
    C,
    y,
    last,  # in: the initial state; out: the last
    slots,
    states,
    chunks,
    length,
    d_inner,
    n_state,
    n_read,
    n_chunks,
    KEEP: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    N: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, N)
    in_d, in_n = d < d_inner, n < n_state
    inside = in_d[:, None] & in_n[None, :]
    tile = d[:, None] * n_state + n[None, :]
    size = d_inner * n_state
    a = tl.load(A + tile, mask=inside, other=0.0)
    h = tl.load(last + b * size + tile, mask=inside, other=0.0)
    for t in range(length):
        if KEEP:  # noqa: SIM102 - known when compiled: without it no test is left in the loop
            if t % CHUNK == 0:
                tl.store(chunks + (b * n_chunks + t // CHUNK) * size + tile, h, mask=inside)
        row = b * length + t
        u_t = tl.load(u + row * d_inner + d, mask=in_d, other=0.0)
        dt_t = tl.load(dt + row * d_inner + d, mask=in_d, other=0.0)
        B_t = tl.load(B + row * n_state + n, mask=in_n, other=0.0)
        C_t = tl.load(C + row * n_state + n, mask=in_n, other=0.0)
        h = tl.exp(dt_t[:, None] * a) * h + (dt_t * u_t)[:, None] * B_t[None, :]
        tl.store(y + row * d_inner + d, tl.sum(h * C_t[None, :], axis=1), mask=in_d)
        slot = tl.load(slots + t)
        if slot >= 0:
            tl.store(states + (b * n_read + slot) * size + tile, h, mask=inside)
    tl.store(last + b * size + tile, h, mask=inside)


# One kernel, and long: both passes over a chunk, its states forward and its gradients back, share
# the tiles that stay in registers, and a kernel cannot hand those to another.
@triton.jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    u,
    dt,
    A,
    B,
    C,
    chunks,
    slots,
    dy,
    dstates,
    g_io,  # in: the gradient of the last state; out: that of the initial state
    du,
    ddt,
    dA,
    dB,
    dC,
    scratch,
    length,
    d_inner,
    n_state,
    n_read,
    n_chunks,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    N: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    d = block * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, N)
    in_d, in_n = d < d_inner, n < n_state
    inside = in_d[:, None] & in_n[None, :]
    tile = d[:, None] * n_state + n[None, :]
    size = d_inner * n_state
    partial = block.to(tl.int64) * tl.num_programs(0) * length * n_state
    own = scratch + (b * tl.num_programs(1) + block) * CHUNK * BLOCK * N
    own_tile = tl.arange(0, BLOCK)[:, None] * N + n[None, :]
    a = tl.load(A + tile, mask=inside, other=0.0)
    g = tl.load(g_io + b * size + tile, mask=inside, other=0.0)
    da = tl.zeros_like(a)
    for c in range(n_chunks):
        chunk = n_chunks - 1 - c
        h = tl.load(chunks + (b * n_chunks + chunk) * size + tile, mask=inside, other=0.0)
        within = min(CHUNK, length - chunk * CHUNK)
        for k in range(within):
            row = b * length + chunk * CHUNK + k
            u_t = tl.load(u + row * d_inner + d, mask=in_d, other=0.0)
            dt_t = tl.load(dt + row * d_inner + d, mask=in_d, other=0.0)
            B_t = tl.load(B + row * n_state + n, mask=in_n, other=0.0)
            tl.store(own + k * BLOCK * N + own_tile, h)
            h = tl.exp(dt_t[:, None] * a) * h + (dt_t * u_t)[:, None] * B_t[None, :]
        tl.debug_barrier()  # another thread of the program may read what this one wrote
        for j in range(within):
            k = within - 1 - j
            t = chunk * CHUNK + k
            row = b * length + t
            before = tl.load(own + k * BLOCK * N + own_tile)
            u_t = tl.load(u + row * d_inner + d, mask=in_d, other=0.0)
            dt_t = tl.load(dt + row * d_inner + d, mask=in_d, other=0.0)
            dy_t = tl.load(dy + row * d_inner + d, mask=in_d, other=0.0)
            B_t = tl.load(B + row * n_state + n, mask=in_n, other=0.0)
            C_t = tl.load(C + row * n_state + n, mask=in_n, other=0.0)
            slot = tl.load(slots + t)
            if slot >= 0:
                g += tl.load(dstates + (b * n_read + slot) * size + tile, mask=inside, other=0.0)
            g += dy_t[:, None] * C_t[None, :]
            at = partial + row * n_state + n
            tl.store(dC + at, tl.sum(dy_t[:, None] * h, axis=0), mask=in_n)
            tl.store(dB + at, tl.sum(g * (dt_t * u_t)[:, None], axis=0), mask=in_n)
            dwrite = tl.sum(g * B_t[None, :], axis=1)
            g = g * tl.exp(dt_t[:, None] * a)
            dlog = g * before  # gradient of dt * A
            da += dlog * dt_t[:, None]
            tl.store(du + row * d_inner + d, dwrite * dt_t, mask=in_d)
            tl.store(ddt + row * d_inner + d, tl.sum(dlog * a, axis=1) + dwrite * u_t, mask=in_d)
            h = before
        tl.debug_barrier()  # the next chunk overwrites the scratch area
    tl.store(g_io + b * size + tile, g, mask=inside)
    tl.store(dA + b * size + tile, da, mask=inside)


def forward(
    inputs: ScanInputs, initial_state: Tensor | None, read: list[int], keep_chunks: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, the last state, the states at the ascending positions `read`, and those entering chunks.

    Shapes as in `selective_scan`; chunks: (batch, chunk or 0, d_inner, d_state).
    """
    given = u, _, A, _, _ = [t.detach().contiguous() for t in inputs]
    (batch, length, d_inner), n_state = u.shape, A.shape[1]
    y = torch.empty_like(u)
    last = u.new_zeros(batch, d_inner, n_state)
    if initial_state is not None:
        last.copy_(initial_state.detach())
    states = u.new_empty(batch, len(read), d_inner, n_state)
    n_chunks = triton.cdiv(length, CHUNK) if keep_chunks else 0
    chunks = u.new_empty(batch, n_chunks, d_inner, n_state)
    with on_device_of(u):
        _forward_kernel[(batch, triton.cdiv(d_inner, BLOCK))](  # pyright: ignore[reportIndexIssue]
            *(*given, y, last, slots_on(read, length, u), states, chunks),
            *(length, d_inner, n_state, len(read), n_chunks),
            KEEP=keep_chunks,
            CHUNK=CHUNK,
            BLOCK=BLOCK,
            N=triton.next_power_of_2(n_state),
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
    return y, last, states, chunks


def backward(
    inputs: ScanInputs, chunks: Tensor, read: list[int], of: ScanGradients
) -> tuple[Tensor, ...]:
    """Gradients of the inputs and the initial state from those of what `forward` returned."""
    given = u, _, A, B, _ = [t.detach().contiguous() for t in inputs]
    (batch, length, d_inner), n_state = u.shape, A.shape[1]
    n_blocks, width = triton.cdiv(d_inner, BLOCK), triton.next_power_of_2(n_state)
    g = u.new_zeros(batch, d_inner, n_state)
    if of.last_state is not None:
        g.copy_(of.last_state)
    du, ddt = torch.empty_like(u), torch.empty_like(u)
    dA = torch.empty_like(g)
    dB, dC = (u.new_empty(n_blocks, *B.shape) for _ in range(2))
    scratch = u.new_empty(batch, n_blocks, CHUNK, BLOCK, width)
    at = slots_on([] if of.states is None else read, length, u)
    dstates = g if of.states is None else of.states.contiguous()
    with on_device_of(u):
        _backward_kernel[(batch, n_blocks)](  # pyright: ignore[reportIndexIssue]
            *(*given, chunks, at, of.y.detach().contiguous(), dstates),
            *(g, du, ddt, dA, dB, dC, scratch),
            *(length, d_inner, n_state, len(read), chunks.shape[1]),
            CHUNK=CHUNK,
            BLOCK=BLOCK,
            N=width,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
    return du, ddt, dA.sum(0), dB.sum(0), dC.sum(0), g


def slots_on(read: list[int], length: int, like: Tensor) -> Tensor:
    """`slots` on the device of a tensor."""
    return torch.from_numpy(slots(read, length)).to(like.device)


def on_device_of(tensor: Tensor) -> Any:
    """Triton launches on the current device, which may be another GPU than the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
