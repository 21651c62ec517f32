"""The parts of a step on CUDA as fused kernels in Triton; the functions of `device_plain`.

* `_decode_kernel`, one program per token: reconstruction, error and slopes of its entries, by the
  rules of the kind; nothing but these is written.
* `_update_kernel`, one program per feature, features with most entries first: the sums of its
  gradients over its entries, sorted by feature, stay in registers and go through Adam, projection
  and normalisation at once.  A step reads and writes weights and moments once, and no gradient of
  all weights exists, but in dense steps.

Every sum has one order, and there are no atomic additions: the same seed gives the same bytes on
the same device. With TRITON_INTERPRET=1 the kernels run on CPU tensors, slowly, for tests.
`device_selection` has those that find the entries.  What makes this module and its kernels long is
their lists of arguments, one per line.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from homolog.dictionaries.kinds import Kind
from homolog.dictionaries.training import device_plain
from homolog.dictionaries.training.device_plain import Entries, Gradients, Move, Slopes, Sorted
from homolog.dictionaries.training.device_selection import above, largest
from homolog.dictionaries.training.device_state import DeviceState
from homolog.dictionaries.training.rules import identity, with_names

__all__ = ["above", "decode", "largest", "update_dense", "update_sparse"]

TILE = 4096  # numbers of gathered rows that a program holds at once

_TINY: tl.constexpr = tl.constexpr(device_plain.TINY)


@triton.jit
def _where(condition, a, b):  # type: ignore[no-untyped-def]
    return tl.where(condition, a, b)


@functools.cache
def rules_of(kind: Kind) -> dict[str, Any]:
    """The constants of `_decode_kernel` that make it a kind's own."""
    assert kind.rules is not None
    n, rules = len(kind.vectors), (kind.rules.magnitude or identity, kind.rules.slopes)
    magnitude, slopes = (triton.jit(with_names(rule, where=_where, tl=tl)) for rule in rules)
    rows = {"N": n, "SECOND": min(1, n - 1), "THIRD": min(2, n - 1)}
    return {"MAGNITUDE": magnitude, "SLOPES": slopes, "TWIN": kind.rules.twin, **rows}


@triton.jit(do_not_specialize=["n_entries"])
def _decode_kernel(  # type: ignore[no-untyped-def]
    index,
    value,
    start,
    stop,
    target,
    bias,
    W_dec,
    vectors,
    norms,
    f_out,
    d_out,
    v_out,
    g,
    squared,
    penalised,
    d_model,
    d_sae,
    n_entries,
    factor,
    penalty,
    constant,
    other_constant,
    MAGNITUDE: tl.constexpr,
    SLOPES: tl.constexpr,
    TWIN: tl.constexpr,
    N: tl.constexpr,
    SECOND: tl.constexpr,
    THIRD: tl.constexpr,
    T: tl.constexpr,
    D: tl.constexpr,
):
    """Error g of a token, and f, d, v of its entries; T entries, D >= d_model columns at once."""
    t = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, D)
    column = j < d_model
    first, last = tl.load(start + t), tl.load(stop + t)
    error = tl.load(bias + j, mask=column, other=0.0) - tl.load(
        target + t * d_model + j, mask=column, other=0.0
    )
    twin = error
    for begin in range(first, last, T):
        entry = begin + tl.arange(0, T)
        inside = entry < last
        i = tl.load(index + entry, mask=inside, other=0).to(tl.int64)
        p = tl.load(value + entry, mask=inside, other=0.0)
        a, b = tl.load(vectors + SECOND * d_sae + i), tl.load(vectors + THIRD * d_sae + i)
        m = MAGNITUDE(p - tl.load(vectors + i), p, a, b)
        f = tl.where(inside & (m > 0.0), m, 0.0)
        both = inside[:, None] & column[None, :]
        row = tl.load(W_dec + i[:, None] * d_model + j[None, :], mask=both, other=0.0)
        error += tl.sum(f[:, None] * row, axis=0)
        if TWIN:
            twin += tl.sum(p[:, None] * row, axis=0)
        tl.store(f_out + entry, f, mask=inside)
    tl.store(squared + t, tl.sum(error * error))
    error *= factor
    twin *= factor
    tl.store(g + t * d_model + j, error, mask=column)
    weighed = tl.zeros((T,), tl.float32)
    for begin in range(first, last, T):
        entry = begin + tl.arange(0, T)
        inside = entry < last
        i = tl.load(index + entry, mask=inside, other=0).to(tl.int64)
        p = tl.load(value + entry, mask=inside, other=0.0)
        a, b = tl.load(vectors + SECOND * d_sae + i), tl.load(vectors + THIRD * d_sae + i)
        m = MAGNITUDE(p - tl.load(vectors + i), p, a, b)
        both = inside[:, None] & column[None, :]
        row = tl.load(W_dec + i[:, None] * d_model + j[None, :], mask=both, other=0.0)
        h = tl.sum(row * error[None, :], axis=1)
        h_twin = h
        if TWIN:
            h_twin = tl.sum(row * twin[None, :], axis=1)
        norm = tl.load(norms + i)
        d, of_first, of_second, of_third, of_entry = SLOPES(
            p, m, h, h_twin, norm, a, b, penalty, constant, other_constant
        )
        tl.store(d_out + entry, d, mask=inside)
        if N > 1:
            tl.store(v_out + entry, of_first, mask=inside)
            tl.store(v_out + n_entries + entry, of_second, mask=inside)
        if N > 2:
            tl.store(v_out + 2 * n_entries + entry, of_third, mask=inside)
        weighed += tl.where(inside, of_entry, 0.0)
    tl.store(penalised + t, tl.sum(weighed))


@triton.jit
def _adam(  # type: ignore[no-untyped-def]
    p, g, mean, square, at, inside, size, beta1, beta2, correction2, epsilon
):
    """p after one step, size = rate * correction1; stores the moments."""
    m = beta1 * tl.load(mean + at, mask=inside, other=0.0) + (1.0 - beta1) * g
    m = tl.where(tl.abs(m) > _TINY, m, 0.0)
    s = beta2 * tl.load(square + at, mask=inside, other=0.0) + (1.0 - beta2) * g * g
    tl.store(mean + at, m, mask=inside)
    tl.store(square + at, s, mask=inside)
    return p - size * m / (tl.sqrt(correction2 * s) + epsilon)


@triton.jit
def _gradients(  # type: ignore[no-untyped-def]
    i,
    offset,
    order,
    token,
    f,
    d,
    v,
    x,
    g,
    fired,
    n_tokens,
    n_entries,
    d_model,
    N: tl.constexpr,
    T: tl.constexpr,
    D: tl.constexpr,
):
    """Sums over the entries of feature i: slopes in W_enc, W_dec, vectors, and f.

    There are 3 vectors at most, of 4.  Counts into fired.
    """
    j, n = tl.arange(0, D), tl.arange(0, 4)
    column = j < d_model
    g_enc, g_dec = tl.zeros((D,), tl.float32), tl.zeros((D,), tl.float32)
    g_vec, all_f = tl.zeros((4,), tl.float32), tl.zeros((T,), tl.float32)
    count = tl.zeros((T,), tl.int64)
    last = tl.load(offset + i + 1)
    for begin in range(tl.load(offset + i), last, T):
        place = begin + tl.arange(0, T)
        inside = place < last
        both = inside[:, None] & column[None, :]
        entry = tl.load(order + place, mask=inside, other=0)
        t = tl.load(token + entry, mask=inside, other=0).to(tl.int64)
        value = tl.load(f + entry, mask=inside, other=0.0)
        slope = tl.load(d + entry, mask=inside, other=0.0)
        push = tl.load(g + t[:, None] * d_model + j[None, :], mask=both, other=0.0)
        g_dec += tl.sum(value[:, None] * push, axis=0)
        main = t < n_tokens  # else of the auxiliary loss
        source = tl.where(main, t, t - n_tokens)
        seen = tl.load(x + source[:, None] * d_model + j[None, :], mask=both, other=0.0)
        g_enc += tl.sum(slope[:, None] * seen, axis=0)
        each = v + n[:, None] * n_entries + entry[None, :]
        g_vec += tl.sum(tl.load(each, mask=(n < N)[:, None] & inside[None, :], other=0.0), axis=1)
        all_f += value
        count += ((value > 0.0) & main).to(tl.int64)
    tl.store(fired + i, tl.sum(count))
    return g_enc, g_dec, g_vec, tl.sum(all_f)


@triton.jit(do_not_specialize=["n_tokens", "n_entries"])
def _update_kernel(  # type: ignore[no-untyped-def]
    rank,
    offset,
    order,
    token,
    f,
    d,
    v,
    x,
    g,
    G_enc,
    G_dec,
    g_vectors,
    totals,
    W_enc,
    W_dec,
    vectors,
    mean_enc,
    square_enc,
    mean_dec,
    square_dec,
    mean_vec,
    square_vec,
    half_enc,
    half_dec,
    norms,
    fired,
    columns,
    n_tokens,
    n_entries,
    d_model,
    d_sae,
    penalty,
    rate,
    beta1,
    beta2,
    correction1,
    correction2,
    epsilon,
    SPARSE: tl.constexpr,
    UNIT: tl.constexpr,
    FROZEN: tl.constexpr,
    PENALISED: tl.constexpr,
    CONFINED: tl.constexpr,
    HALF_ENC: tl.constexpr,
    HALF_DEC: tl.constexpr,
    N: tl.constexpr,
    T: tl.constexpr,
    D: tl.constexpr,
):
    """Adam on a feature: gradients are sums over its entries if SPARSE, else rows of matrices."""
    i = tl.program_id(0).to(tl.int64)
    if SPARSE:
        i = tl.load(rank + i)
    j, n = tl.arange(0, D), tl.arange(0, 4)
    column, some = j < d_model, n < N
    at, where = i * d_model + j, n * d_sae + i
    if SPARSE:
        g_enc, g_dec, g_vec, total = _gradients(
            i, offset, order, token, f, d, v, x, g, fired, n_tokens, n_entries, d_model, N, T, D
        )
    else:
        g_enc = tl.load(G_enc + at, mask=column, other=0.0).to(tl.float32)
        g_dec = tl.load(G_dec + at, mask=column, other=0.0).to(tl.float32)
        g_vec = tl.load(g_vectors + where, mask=some, other=0.0)
        total = tl.load(totals + i)
    if CONFINED:
        own = (tl.load(columns + 2 * i) <= j) & (j < tl.load(columns + 2 * i + 1))
        g_enc, g_dec = tl.where(own, g_enc, 0.0), tl.where(own, g_dec, 0.0)
    size = rate * correction1
    p = tl.load(W_enc + at, mask=column, other=0.0)
    p = _adam(p, g_enc, mean_enc, square_enc, at, column, size, beta1, beta2, correction2, epsilon)
    tl.store(W_enc + at, p, mask=column)
    if HALF_ENC:
        tl.store(half_enc + at, p.to(tl.bfloat16), mask=column)
    p = tl.load(vectors + where, mask=some, other=0.0)
    p = _adam(p, g_vec, mean_vec, square_vec, where, some, size, beta1, beta2, correction2, epsilon)
    tl.store(vectors + where, p, mask=some)
    if not FROZEN:
        p = tl.load(W_dec + at, mask=column, other=0.0)
        if UNIT:  # without the part along the row, Adam does not chase the norm [Gao 2024]
            g_dec -= tl.sum(p * g_dec) * p
        elif PENALISED:
            norm = tl.sqrt(tl.sum(p * p))
            g_dec += tl.where(norm > 0.0, penalty * total / norm, 0.0) * p
        p = _adam(
            p, g_dec, mean_dec, square_dec, at, column, size, beta1, beta2, correction2, epsilon
        )
        norm = tl.sqrt(tl.sum(p * p))
        if UNIT:
            p *= tl.where(norm > 0.0, 1.0 / norm, 1.0)
        else:
            tl.store(norms + i, norm)
        tl.store(W_dec + at, p, mask=column)
        if HALF_DEC:
            tl.store(half_dec + at, p.to(tl.bfloat16), mask=column)


def decode(
    state: DeviceState,
    entries: Entries,
    target: Tensor,
    bias: Tensor,
    factor: float,
    penalty: float,
    g: Tensor,
) -> Slopes:
    """As in `device_plain`; what belongs to unused entries is not set."""
    w, p, (n, d_model) = state.weights, entries.value, target.shape
    columns, vectors = triton.next_power_of_2(d_model), state.coefficients(torch.exp)
    f, d = (torch.empty_like(p) for _ in range(2))
    v = d[None] if len(vectors) == 1 else torch.empty(len(vectors), len(p), device=p.device)
    squared, penalised = (torch.empty(n, device=p.device) for _ in range(2))
    given = entries.index, p, entries.start, entries.stop, target, bias, w.W_dec, vectors
    numbers = state.d_model, state.d_sae, len(p), factor, penalty
    _decode_kernel[(n,)](  # pyright: ignore[reportIndexIssue]
        *given,
        state.norms,
        *(f, d, v, g, squared, penalised),
        *numbers,
        *state.rules.constants(state.config),
        **rules_of(state.kind),
        T=max(1, TILE // columns),
        D=columns,
        num_warps=_warps(columns),
    )
    return Slopes(f, d, v, squared, penalised)


def update_sparse(
    state: DeviceState, by_feature: Sorted, slopes: Slopes, x: Tensor, g: Tensor, move: Move
) -> None:
    """As in `device_plain`."""
    offset, order, token = by_feature.offset, by_feature.order, by_feature.token
    rank = offset.diff().argsort(descending=True, stable=True)
    none = slopes.f
    arrays = (rank, offset, order, token, slopes.f, slopes.d, slopes.v, x, g, *(none,) * 4)
    _update(state, arrays, (len(x), len(slopes.f)), move, sparse=True)


def update_dense(state: DeviceState, gradients: Gradients, move: Move) -> None:
    """As in `device_plain`."""
    none, nothing = state.fired, gradients.total
    _update(state, (*(none,) * 4, *(nothing,) * 5, *gradients), (0, 0), move, sparse=False)


def _update(
    state: DeviceState, arrays: tuple[Tensor, ...], sizes: tuple[int, int], move: Move, sparse: bool
) -> None:
    """sizes: numbers of tokens and of entries."""
    w, m, s = state.weights, state.mean, state.square
    columns = triton.next_power_of_2(state.d_model)
    _update_kernel[(state.d_sae,)](  # pyright: ignore[reportIndexIssue]
        *arrays,
        *(w.W_enc_T, w.W_dec, w.vectors),
        *(m.W_enc_T, s.W_enc_T, m.W_dec, s.W_dec, m.vectors, s.vectors),
        *(state.enc_half, state.dec_half, state.norms, state.fired, state.columns_there),
        *sizes,
        state.d_model,
        state.d_sae,
        move.penalty,
        *move.rates,
        SPARSE=sparse,
        UNIT=state.unit,
        FROZEN=state.config.freeze_decoder,
        PENALISED=move.penalty > 0,
        CONFINED=state.confined,
        HALF_ENC=len(state.enc_half) > 0,
        HALF_DEC=len(state.dec_half) > 0,
        N=len(w.vectors),
        T=max(1, TILE // columns),
        D=columns,
        num_warps=_warps(columns),
    )


def _warps(columns: int) -> int:
    return 4 if columns <= 2048 else 8
