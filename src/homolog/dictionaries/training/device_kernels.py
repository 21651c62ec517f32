"""The parts of a step on a CUDA device as fused kernels in Triton; the same functions as in
`device_plain`.

* `_largest_kernel`, a program a token: its row of products stays in registers while the bits of floats above 0, which
  order like the floats, are bisected for the k-th largest; what is kept goes to the token's k
  places.
* `_count_kernel`, `_gather_kernel`, a program a token: the features above 0.
* `_decode_kernel`, a program a token: reconstruction, error and slopes of its entries; nothing but these is written.
* `_update_kernel`, a program a feature, features with most entries first: the sums of its gradients over its entries,
  sorted by feature, stay in registers and go through Adam, projection and normalisation at once.  A
  step reads and writes weights and moments once, and no gradient of all weights exists, but in
  dense steps.

Every sum has one order, and there are no atomic additions: the same seed gives the same bytes on
the same device. With TRITON_INTERPRET=1 the kernels run on CPU tensors, slowly, for tests.
"""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from homolog.dictionaries.training import device_plain
from homolog.dictionaries.training.device_plain import Entries, Rates, Slopes
from homolog.dictionaries.training.device_state import GATED, JUMPRELU, DeviceState

WIDEST = 1 << 16  # features whose products a program of the selection holds at most
STRIP = 2048  # features at once of a program that counts or gathers
TILE = 4096  # numbers of gathered rows that a program holds at once

_JUMPRELU: tl.constexpr = tl.constexpr(JUMPRELU)
_GATED: tl.constexpr = tl.constexpr(GATED)
_TINY: tl.constexpr = tl.constexpr(device_plain.TINY)


@triton.jit
def _bits(product, bias, among, i, d_sae, SOME: tl.constexpr):  # type: ignore[no-untyped-def]
    """Bits of the pre-activations above 0 of features i, else 0; NaN as CUDA makes it is above all
    and seen.
    """
    inside = i < d_sae
    p = tl.load(product + i, mask=inside, other=0.0).to(tl.float32) + tl.load(
        bias + i, mask=inside, other=0.0
    )
    if SOME:
        inside &= tl.load(among + i, mask=inside, other=0) != 0
    bits = p.to(tl.int32, bitcast=True)
    return tl.where(inside & (bits > 0), bits, 0)


@triton.jit
def _largest_kernel(  # type: ignore[no-untyped-def]
    product,
    bias,
    among,
    index,
    token,
    value,
    stop,
    d_sae,
    k,
    SOME: tl.constexpr,
    WIDTH: tl.constexpr,
    STRIP: tl.constexpr,
):
    """A token's k largest p = product + bias above 0, of the features marked in `among` if SOME;
    fills its k places.
    """
    t = tl.program_id(0).to(tl.int64)
    product += t * d_sae
    row = _bits(product, bias, among, tl.arange(0, WIDTH), d_sae, SOME)
    low, high = 0, tl.max(row)
    above = tl.sum((row > 0).to(tl.int32))
    while (above > k) & (high - low > 1):  # above = count(row > low) > k > count(row > high)
        middle = low + (high - low) // 2
        n = tl.sum((row > middle).to(tl.int32))
        if n >= k:
            low = middle
            above = n
        else:
            high = middle
    cut, ties = low, 0
    if above > k:  # the k-th largest is one of several equal ones
        cut = high
        ties = k - tl.sum((row > high).to(tl.int32))
    place = t * k
    for begin in range(0, d_sae, STRIP):  # read again: all at once would not stay in registers
        i = begin + tl.arange(0, STRIP)
        bits = _bits(product, bias, among, i, d_sae, SOME)
        keep = bits > cut
        if ties > 0:
            equal = (bits == cut).to(tl.int32)
            keep |= (equal > 0) & (tl.cumsum(equal, 0) <= ties)
            ties -= tl.minimum(ties, tl.sum(equal))
        at = place + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(index + at, i, mask=keep)
        tl.store(token + at, (tl.zeros_like(i) + t).to(tl.int32), mask=keep)
        tl.store(value + at, bits.to(tl.float32, bitcast=True), mask=keep)
        place += tl.sum(keep.to(tl.int32))
    tl.store(stop + t, place)


@triton.jit
def _count_kernel(product, low, counts, d_sae, STRIP: tl.constexpr):  # type: ignore[no-untyped-def]
    """How many products + low of a token are above 0."""
    t = tl.program_id(0).to(tl.int64)
    n = tl.zeros((STRIP,), tl.int64)
    for begin in range(0, d_sae, STRIP):
        i = begin + tl.arange(0, STRIP)
        inside = i < d_sae
        p = tl.load(product + t * d_sae + i, mask=inside, other=0.0).to(tl.float32)
        p += tl.load(low + i, mask=inside, other=0.0)
        n += (inside & (p > 0.0)).to(tl.int64)
    tl.store(counts + t, tl.sum(n))


@triton.jit
def _gather_kernel(  # type: ignore[no-untyped-def]
    product, low, more, start, index, token, value, d_sae, STRIP: tl.constexpr
):
    """The features of a token whose product + low is above 0, with these sums + more, from
    start[token] on.
    """
    t = tl.program_id(0).to(tl.int64)
    place = tl.load(start + t)
    for begin in range(0, d_sae, STRIP):
        i = begin + tl.arange(0, STRIP)
        inside = i < d_sae
        p = tl.load(product + t * d_sae + i, mask=inside, other=0.0).to(tl.float32)
        p += tl.load(low + i, mask=inside, other=0.0)
        keep = inside & (p > 0.0)
        at = place + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(index + at, i, mask=keep)
        tl.store(token + at, (tl.zeros_like(i) + t).to(tl.int32), mask=keep)
        tl.store(value + at, p + tl.load(more + i, mask=inside, other=0.0), mask=keep)
        place += tl.sum(keep.to(tl.int64))


@triton.jit
def _feature(p, i, vectors, d_sae, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """Value of features i at entries p."""
    if KIND == _JUMPRELU:
        f = tl.where(p > tl.load(vectors + d_sae + i), p, 0.0)
    elif KIND == _GATED:
        scale, b_mag = tl.exp(tl.load(vectors + 2 * d_sae + i)), tl.load(vectors + d_sae + i)
        f = tl.maximum((p - tl.load(vectors + i)) * scale + b_mag, 0.0)
    else:
        f = p
    return f


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
    width,
    KIND: tl.constexpr,
    T: tl.constexpr,
    D: tl.constexpr,
):
    """Error g of a token, and f, d, v of its entries; T entries and D >= d_model columns at once."""
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
        f = _feature(p, i, vectors, d_sae, KIND)
        row = tl.load(
            W_dec + i[:, None] * d_model + j[None, :],
            mask=inside[:, None] & column[None, :],
            other=0.0,
        )
        error += tl.sum(f[:, None] * row, axis=0)
        if KIND == _GATED:
            twin += tl.sum(p[:, None] * row, axis=0)
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
        f = _feature(p, i, vectors, d_sae, KIND)
        row = tl.load(
            W_dec + i[:, None] * d_model + j[None, :],
            mask=inside[:, None] & column[None, :],
            other=0.0,
        )
        h = tl.sum(row * error[None, :], axis=1)
        if KIND == _JUMPRELU:
            limit = tl.load(vectors + d_sae + i)
            d = tl.where(p > limit, h, 0.0)
            near = tl.abs(p - limit) < width * 0.5
            tl.store(v_out + entry, d, mask=inside)
            tl.store(
                v_out + n_entries + entry,
                tl.where(near, -(limit * h + penalty) / width, 0.0),
                mask=inside,
            )
            weighed += tl.where(inside & (p > limit), 1.0, 0.0)
        elif KIND == _GATED:
            gate = tl.sum(row * twin[None, :], axis=1) + penalty
            mag = tl.where(f > 0.0, h, 0.0)
            d = gate + tl.exp(tl.load(vectors + 2 * d_sae + i)) * mag
            tl.store(v_out + entry, gate, mask=inside)
            tl.store(v_out + n_entries + entry, mag, mask=inside)
            tl.store(
                v_out + 2 * n_entries + entry, mag * (f - tl.load(vectors + d_sae + i)), mask=inside
            )
            weighed += p
        else:
            norm = tl.load(norms + i)
            d = h + penalty * norm
            weighed += p * norm
        tl.store(f_out + entry, f, mask=inside)
        tl.store(d_out + entry, d, mask=inside)
    tl.store(penalised + t, tl.sum(weighed))


@triton.jit
def _adam(  # type: ignore[no-untyped-def]
    p, g, mean, square, at, inside, rate, beta1, beta2, correction1, correction2, epsilon
):
    """p after one step; stores the moments."""
    m = beta1 * tl.load(mean + at, mask=inside, other=0.0) + (1.0 - beta1) * g
    m = tl.where(tl.abs(m) > _TINY, m, 0.0)
    s = beta2 * tl.load(square + at, mask=inside, other=0.0) + (1.0 - beta2) * g * g
    tl.store(mean + at, m, mask=inside)
    tl.store(square + at, s, mask=inside)
    return p - rate * correction1 * m / (tl.sqrt(correction2 * s) + epsilon)


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
    """Sums over the entries of feature i: slopes in W_enc, W_dec, vectors (3 at most, of 4), f.
    Counts into fired.
    """
    j, n = tl.arange(0, D), tl.arange(0, 4)
    column = j < d_model
    g_enc, g_dec = tl.zeros((D,), tl.float32), tl.zeros((D,), tl.float32)
    g_vec, all_f, count = (
        tl.zeros((4,), tl.float32),
        tl.zeros((T,), tl.float32),
        tl.zeros((T,), tl.int64),
    )
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
    HALF_ENC: tl.constexpr,
    HALF_DEC: tl.constexpr,
    N: tl.constexpr,
    T: tl.constexpr,
    D: tl.constexpr,
):
    """Adam on a feature; its gradients are sums over its entries if SPARSE, else rows of G_enc,
    G_dec, g_vectors.
    """
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
    p = tl.load(W_enc + at, mask=column, other=0.0)
    p = _adam(
        p,
        g_enc,
        mean_enc,
        square_enc,
        at,
        column,
        rate,
        beta1,
        beta2,
        correction1,
        correction2,
        epsilon,
    )
    tl.store(W_enc + at, p, mask=column)
    if HALF_ENC:
        tl.store(half_enc + at, p.to(tl.bfloat16), mask=column)
    p = tl.load(vectors + where, mask=some, other=0.0)
    p = _adam(
        p,
        g_vec,
        mean_vec,
        square_vec,
        where,
        some,
        rate,
        beta1,
        beta2,
        correction1,
        correction2,
        epsilon,
    )
    tl.store(vectors + where, p, mask=some)
    if not FROZEN:
        p = tl.load(W_dec + at, mask=column, other=0.0)
        if UNIT:  # without the part along the row, Adam does not chase the norm [Gao 2024]
            g_dec -= tl.sum(p * g_dec) * p
        elif PENALISED:
            norm = tl.sqrt(tl.sum(p * p))
            g_dec += tl.where(norm > 0.0, penalty * total / norm, 0.0) * p
        p = _adam(
            p,
            g_dec,
            mean_dec,
            square_dec,
            at,
            column,
            rate,
            beta1,
            beta2,
            correction1,
            correction2,
            epsilon,
        )
        norm = tl.sqrt(tl.sum(p * p))
        if UNIT:
            p *= tl.where(norm > 0.0, 1.0 / norm, 1.0)
        else:
            tl.store(norms + i, norm)
        tl.store(W_dec + at, p, mask=column)
        if HALF_DEC:
            tl.store(half_dec + at, p.to(tl.bfloat16), mask=column)


def largest(product: Tensor, bias: Tensor, k: int, among: Tensor | None = None) -> Entries:
    """As in `device_plain`, with k places a token: those not used have index d_sae."""
    n, d_sae = product.shape
    if d_sae > WIDEST:
        return device_plain.largest(product, bias, k, among)
    k = min(k, d_sae)
    index = torch.full((n * k,), d_sae, dtype=torch.int32, device=product.device)
    token, value = torch.zeros_like(index), torch.zeros(n * k, device=product.device)
    start = torch.arange(0, n * k, k, device=product.device)
    stop, width = torch.empty_like(start), triton.next_power_of_2(d_sae)
    _largest_kernel[(n,)](  # pyright: ignore[reportIndexIssue]
        product,
        bias,
        bias if among is None else among,
        index,
        token,
        value,
        stop,
        d_sae,
        k,
        SOME=among is not None,
        WIDTH=width,
        STRIP=min(width, STRIP),
        num_warps=max(4, min(16, width // 1024)),
    )
    return Entries(index, token, value, start, stop)


def above(product: Tensor, bias: Tensor, low: Tensor, limit: int) -> Entries | None:
    """As in `device_plain`."""
    n, d_sae = product.shape
    counts = torch.empty(n, dtype=torch.int64, device=product.device)
    _count_kernel[(n,)](product, low, counts, d_sae, STRIP=STRIP)  # pyright: ignore[reportIndexIssue]
    stop = counts.cumsum(0)
    found = int(stop[-1])
    if found > limit:
        return None
    index, token = (torch.empty(found, dtype=torch.int32, device=product.device) for _ in range(2))
    value, start = torch.empty(found, device=product.device), stop - counts
    _gather_kernel[(n,)](  # pyright: ignore[reportIndexIssue]
        product, low, bias - low, start, index, token, value, d_sae, STRIP=STRIP
    )
    return Entries(index, token, value, start, stop)


def decode(
    state: DeviceState,
    kind: int,
    entries: Entries,
    target: Tensor,
    bias: Tensor,
    factor: float,
    penalty: float,
    width: float,
    g: Tensor,
) -> Slopes:
    """As in `device_plain`; what belongs to unused entries is not set."""
    w, p, (n, d_model) = state.weights, entries.value, target.shape
    columns = triton.next_power_of_2(d_model)
    f, d = (torch.empty_like(p) for _ in range(2))
    n_vectors = len(w.vectors)
    v = d[None] if n_vectors == 1 else torch.empty(n_vectors, len(p), device=p.device)
    squared, penalised = (torch.empty(n, device=p.device) for _ in range(2))
    _decode_kernel[(n,)](  # pyright: ignore[reportIndexIssue]
        entries.index,
        p,
        entries.start,
        entries.stop,
        target,
        bias,
        w.W_dec,
        w.vectors,
        state.norms,
        f,
        d,
        v,
        g,
        squared,
        penalised,
        state.d_model,
        state.d_sae,
        len(p),
        factor,
        penalty,
        width,
        KIND=kind,
        T=max(1, TILE // columns),
        D=columns,
        num_warps=_warps(columns),
    )
    return Slopes(f, d, v, squared, penalised)


def update_sparse(
    state: DeviceState,
    order: Tensor,
    offset: Tensor,
    token: Tensor,
    slopes: Slopes,
    x: Tensor,
    g: Tensor,
    penalty: float,
    rates: Rates,
) -> None:
    """As in `device_plain`."""
    rank = offset.diff().argsort(descending=True, stable=True)
    none = slopes.f
    _update(
        state,
        (rank, offset, order, token, slopes.f, slopes.d, slopes.v, x, g, none, none, none, none),
        len(x),
        len(slopes.f),
        penalty,
        rates,
        sparse=True,
    )


def update_dense(
    state: DeviceState,
    G_enc: Tensor,
    G_dec: Tensor,
    g_vectors: Tensor,
    total: Tensor,
    penalty: float,
    rates: Rates,
) -> None:
    """As in `device_plain`."""
    none = state.fired
    arrays = (
        none,
        none,
        none,
        none,
        total,
        total,
        total,
        total,
        total,
        G_enc,
        G_dec,
        g_vectors,
        total,
    )
    _update(state, arrays, 0, 0, penalty, rates, sparse=False)


def _update(
    state: DeviceState,
    arrays: tuple,
    n_tokens: int,
    n_entries: int,
    penalty: float,
    rates: Rates,
    sparse: bool,
) -> None:
    w, m, s = state.weights, state.mean, state.square
    columns = triton.next_power_of_2(state.d_model)
    _update_kernel[(state.d_sae,)](  # pyright: ignore[reportIndexIssue]
        *arrays,
        w.W_enc_T,
        w.W_dec,
        w.vectors,
        m.W_enc_T,
        s.W_enc_T,
        m.W_dec,
        s.W_dec,
        m.vectors,
        s.vectors,
        state.enc_half,
        state.dec_half,
        state.norms,
        state.fired,
        n_tokens,
        n_entries,
        state.d_model,
        state.d_sae,
        penalty,
        *rates,
        SPARSE=sparse,
        UNIT=state.unit,
        FROZEN=state.config.freeze_decoder,
        PENALISED=penalty > 0,
        HALF_ENC=len(state.enc_half) > 0,
        HALF_DEC=len(state.dec_half) > 0,
        N=len(w.vectors),
        T=max(1, TILE // columns),
        D=columns,
        num_warps=_warps(columns),
    )


def _warps(columns: int) -> int:
    return 4 if columns <= 2048 else 8
