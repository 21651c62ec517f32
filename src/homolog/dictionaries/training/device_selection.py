"""Which features of a token are active, on a CUDA device, as kernels in Triton.

* `_largest_kernel`, one program per token: its row of products stays in registers while the bits of
  floats above 0, which order like the floats, are bisected for the k-th largest; what is kept goes
  to the token's k places.
* `_count_kernel`, `_gather_kernel`, one program per token: the features above 0.
"""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from homolog.dictionaries.training import device_plain
from homolog.dictionaries.training.device_plain import Entries

WIDEST = 1 << 16  # features whose products a program of the selection holds at most
STRIP = 2048  # features at once of a program that counts or gathers


@triton.jit
def _bits(product, bias, among, i, d_sae, SOME: tl.constexpr):  # type: ignore[no-untyped-def]
    """Bits of features' pre-activations above 0, else 0; NaN as CUDA makes it is above all."""
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
    """Fills a token's places with its k largest p = product + bias above 0, in `among` if SOME."""
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
    """Features whose product + low is above 0, with these sums + more, from start[token] on."""
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
        *(product, bias, bias if among is None else among),
        *(index, token, value, stop, d_sae, k),
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
    n_entries = int(stop[-1])
    if n_entries > limit:
        return None
    device = product.device
    index, token = (torch.empty(n_entries, dtype=torch.int32, device=device) for _ in range(2))
    value, start = torch.empty(n_entries, device=device), stop - counts
    _gather_kernel[(n,)](  # pyright: ignore[reportIndexIssue]
        product, low, bias - low, start, index, token, value, d_sae, STRIP=STRIP
    )
    return Entries(index, token, value, start, stop)
