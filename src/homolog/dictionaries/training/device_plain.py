"""The parts of a step in plain torch operations, for devices without Triton; as `device_kernels`.

The equations are those of `tokens.py` and `rows.py`.  Entries (token, feature, value) of active
features lie in order of token, then of feature.  What a step needs of them are two kinds of sums
over runs of rows,

    x_t' = b_dec + sum f W_dec[i]   over the entries of token t
    dW_dec[i] = sum f g_t,   dW_enc[:, i] = sum d x_t   over the entries of feature i

and rows are gathered for a bounded number of entries at once.  Runs are summed in their order, so
the same seed gives the same bytes on the same device; on devices other than the CPU and CUDA, which
lack that sum, by atomic additions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from homolog.dictionaries.training.device_state import DeviceState
from homolog.dictionaries.training.rules import on_tensors

GATHERED = 1 << 16  # entries whose rows are held at once
SUMS_RUNS = ("cpu", "cuda")  # devices that sum runs of rows in order
TINY = 1e-30  # moments below are 0, as on the CPU


class Move(NamedTuple):
    """How a step moves weights."""

    penalty: float
    """Weight of the norms of decoder rows, over the number of tokens; 0 where they are held."""
    rates: tuple[float, ...]
    """Of Adam, as `step.rates_at` gives them."""


class Gradients(NamedTuple):
    """Of features: rows of W_enc^T and W_dec, columns of vectors; and the sums of their values."""

    W_enc_T: Tensor
    W_dec: Tensor
    vectors: Tensor
    total: Tensor


@dataclass(frozen=True, eq=False)
class Entries:
    """Active features of tokens; those of token t are start[t] to stop[t].

    index, token: integers (entry,); value float32 (entry,); start, stop int64 (token,).  Entries
    that belong to no token have index d_sae.
    """

    index: Tensor
    token: Tensor
    value: Tensor
    start: Tensor
    stop: Tensor


@dataclass(frozen=True, eq=False)
class Sorted:
    """Entries by feature: order[offset[i] : offset[i + 1]] are those of i; token: of each entry."""

    order: Tensor
    offset: Tensor
    token: Tensor

    @classmethod
    def of(cls, entries: Entries, d_sae: int) -> Sorted:
        """In each feature, in the order of tokens."""
        feature, order = entries.index.sort(stable=True)
        edges = torch.arange(d_sae + 1, dtype=feature.dtype, device=feature.device)
        return cls(order, torch.searchsorted(feature, edges), entries.token)


@dataclass(frozen=True, eq=False)
class Slopes:
    """What a step does with entries and tokens.

    Of entries: feature f, slope d in x W_enc, slopes v (vectors, entry); of tokens: squared error,
    penalised sum.
    """

    f: Tensor
    d: Tensor
    v: Tensor
    squared: Tensor
    penalised: Tensor


def largest(product: Tensor, bias: Tensor, k: int, among: Tensor | None = None) -> Entries:
    """Each token's k largest p = product + bias above 0, lowest feature first among equal ones.

    among (d_sae, bool): the features to choose from.
    """
    p = product.float() + bias
    # floats above 0 order like their bits, and NaN above all: it is seen
    bits = p.view(torch.int32).clamp(min=0)
    if among is not None:
        bits = bits * among
    cut = bits.topk(min(k, bits.shape[1]), dim=1).values[:, -1:]
    keep = bits > cut
    room, ties = k - keep.sum(1), (bits == cut) & (cut > 0)
    crowded = (ties.sum(1) > room).nonzero()[:, 0]
    ties[crowded] &= ties[crowded].cumsum(1) <= room[crowded, None]
    return _entries(keep | ties, p)


def above(product: Tensor, bias: Tensor, low: Tensor, limit: int) -> Entries | None:
    """Entries p = product + bias where product + low > 0; None where more than `limit`."""
    lowered = product.float() + low
    keep = lowered > 0
    if int(keep.sum()) > limit:
        return None
    return _entries(keep, lowered, bias - low)


def _entries(keep: Tensor, values: Tensor, more: Tensor | None = None) -> Entries:
    counts = keep.sum(1)
    stop = counts.cumsum(0)
    token, index = keep.nonzero(as_tuple=True)
    value = values[token, index]
    value = value if more is None else value + more[index]
    return Entries(index, token, value, stop - counts, stop)


def decode(
    state: DeviceState,
    entries: Entries,
    target: Tensor,
    bias: Tensor,
    factor: float,
    penalty: float,
    g: Tensor,
) -> Slopes:
    """g = factor * (bias + sum of f W_dec[index] - target) of each token, and slopes.

    The slopes follow by the kind's rules.  penalty: its weight over the number of tokens.
    """
    w, p, (magnitude, slopes) = state.weights, entries.value, on_tensors(state.kind)
    of = state.coefficients(torch.exp)[:, entries.index]  # the vectors at each entry
    second, third = of[min(1, len(of) - 1)], of[min(2, len(of) - 1)]
    f = p
    if state.rules.magnitude is not None:
        f = magnitude(p - of[0], p, second, third).clamp(min=0)
    h, squared = torch.empty_like(p), torch.empty_like(target[:, 0])
    twin = torch.empty_like(p) if state.rules.twin else h
    lengths = entries.stop - entries.start
    for tokens, part in _pieces([0, *entries.stop.tolist()]):
        rows, local = w.W_dec[entries.index[part]], entries.token[part] - tokens.start
        start = bias - target[tokens]
        error = start + _sums(f[part, None] * rows, lengths[tokens])
        squared[tokens] = error.square().sum(1)
        g[tokens] = factor * error
        h[part] = (rows * g[tokens][local]).sum(1)
        if state.rules.twin:
            pushed = factor * (start + _sums(p[part, None] * rows, lengths[tokens]))
            twin[part] = (rows * pushed[local]).sum(1)
    constants, norm = state.rules.constants(state.config), state.norms[entries.index]
    d, *of_vectors, weighed = slopes(p, f, h, twin, norm, second, third, penalty, *constants)
    v = torch.stack(of_vectors[: len(of)])
    return Slopes(f, d, v, squared, _sums(weighed[:, None], lengths)[:, 0])


def update_sparse(
    state: DeviceState, by_feature: Sorted, slopes: Slopes, x: Tensor, g: Tensor, move: Move
) -> None:
    """Gradients of all features from their entries, and one step of Adam on their weights.

    Entries whose token is len(x) or more are of the auxiliary loss: row of g as it is, of x less
    len(x).  Counts into state.fired.
    """
    lengths = by_feature.offset.diff()
    for features, part in _pieces(by_feature.offset.tolist()):
        entry = by_feature.order[part]
        t, each = by_feature.token[entry], lengths[features]
        f, slope = slopes.f[entry, None], slopes.d[entry, None]
        fired = ((f > 0) & (t < len(x))[:, None]).float()
        sums = _sums(torch.cat([slopes.v[:, entry].T, f, fired], dim=1), each)
        state.fired[features] = sums[:, -1].to(state.fired.dtype)
        gradients = Gradients(
            _sums(slope * x[t % len(x)], each),
            _sums(f * g[t], each),
            vectors=sums[:, :-2].T,
            total=sums[:, -2],
        )
        _step_features(state, features, gradients, move)


def update_dense(state: DeviceState, gradients: Gradients, move: Move) -> None:
    """One step of Adam on all features from whole gradients (d_sae, d_model), of any dtype."""
    G_enc, G_dec, vectors, total = gradients
    for first in range(0, state.d_sae, 4096):
        part = slice(first, first + 4096)
        matrices = G_enc[part].float(), G_dec[part].float()
        _step_features(state, part, Gradients(*matrices, vectors[:, part], total[part]), move)


def adam(p: Tensor, g: Tensor, m: Tensor, v: Tensor, rates: tuple[float, ...]) -> None:
    """One step of Adam [Kingma 2015] on float32 tensors, in place."""
    rate, beta1, beta2, correction1, correction2, epsilon = rates
    mean = beta1 * m + (1 - beta1) * g
    m.copy_(torch.where(mean.abs() > TINY, mean, 0))
    v.mul_(beta2).add_((1 - beta2) * g * g)
    p.sub_(rate * correction1 * m / ((correction2 * v).sqrt() + epsilon))


def _step_features(state: DeviceState, part: slice, gradients: Gradients, move: Move) -> None:
    w, m, s = state.weights, state.mean, state.square
    (g_enc, g_dec, g_vec, total), (penalty, rates) = gradients, move
    if state.confined:
        first, last = state.columns_there[part].T[:, :, None]
        column = torch.arange(state.d_model, device=first.device)
        inside = (first <= column) & (column < last)
        g_enc, g_dec = g_enc * inside, g_dec * inside
    adam(w.W_enc_T[part], g_enc, m.W_enc_T[part], s.W_enc_T[part], rates)
    adam(w.vectors[:, part], g_vec, m.vectors[:, part], s.vectors[:, part], rates)
    row = w.W_dec[part]
    if not state.config.freeze_decoder:
        if state.unit:  # without the part along the row, Adam does not chase the norm [Gao 2024]
            g_dec = g_dec - (row * g_dec).sum(1, keepdim=True) * row
        elif penalty > 0:
            norm = row.square().sum(1).sqrt()
            g_dec = g_dec + torch.where(norm > 0, penalty * total / norm, 0)[:, None] * row
        adam(row, g_dec, m.W_dec[part], s.W_dec[part], rates)
        norm = row.square().sum(1).sqrt()
        if state.unit:
            row.mul_(torch.where(norm > 0, 1 / norm, 1)[:, None])
        else:
            state.norms[part] = norm
    for half, whole in ((state.enc_half, w.W_enc_T), (state.dec_half, w.W_dec)):
        if len(half):
            half[part] = whole[part].bfloat16()


def _sums(rows: Tensor, lengths: Tensor) -> Tensor:
    """Sum of each run of consecutive rows (row, column), of these lengths; 0 for an empty one."""
    if rows.device.type in SUMS_RUNS:
        return torch.segment_reduce(rows, "sum", lengths=lengths, axis=0, unsafe=True, initial=0)
    run = torch.arange(len(lengths), device=rows.device).repeat_interleave(lengths)
    return rows.new_zeros(len(lengths), rows.shape[1]).index_add_(0, run, rows)


def _pieces(ends: Sequence[int]) -> list[tuple[slice, slice]]:
    """Consecutive runs, i of entries ends[i] to ends[i + 1], about GATHERED entries at once."""
    pieces, first = [], 0
    for run in range(1, len(ends)):
        if run == len(ends) - 1 or ends[run + 1] - ends[first] > GATHERED:
            pieces.append((slice(first, run), slice(ends[first], ends[run])))
            first = run
    return pieces
