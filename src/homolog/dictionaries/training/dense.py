"""Gradients of a step from products of whole matrices, while many features are active."""

from __future__ import annotations

import numpy as np
import torch

from homolog.dictionaries.training import elementwise, rows, tokens
from homolog.dictionaries.training.rules import exp, on_cpu
from homolog.dictionaries.training.scratch import DenseScratch, Job, matrix, pair
from homolog.dictionaries.training.sparse import Update


def dense_step(job: Job) -> Update:
    """What `sparse.sparse_step` does, at a cost that does not depend on how many are active."""
    state, seen, scratch = job.state, job.seen, job.scratch
    if scratch.dense is None:
        scratch.dense = DenseScratch(state, scratch.n_tokens, len(scratch.blocks))
    wide = scratch.dense
    job.each_block(lambda b: _differentiate(job, wide, b))
    sums, total, count = wide.sums.sum(0), wide.total.sum(0), wide.count.sum(0)
    used = count if state.rules.low is None else wide.seen.sum(0)
    state.scalars[0] = float(used.sum(dtype=np.float64)) / scratch.n_tokens
    state.fired[:] = count
    g = wide.g_half if state.half else torch.from_numpy(scratch.g[: scratch.n_tokens])
    target, d_model = state.target(job.penalty), state.d_model

    def update(first: int, last: int, rates: tuple) -> None:
        part, n = slice(first, last), last - first
        G_enc = torch.mm(wide.h[:, part].T, seen, out=matrix("G_enc", n, d_model, seen.dtype))
        G_dec = torch.mm(wide.f[:, part].T, g, out=matrix("G_dec", n, d_model, g.dtype))
        gradients = G_enc.float().numpy(), G_dec.float().numpy(), sums, total
        rows.update_dense(first, last, *gradients, target, rates)

    return update


def _differentiate(job: Job, wide: DenseScratch, b: int) -> None:
    """Features, errors and slopes of a block of tokens."""
    state, scratch, part = job.state, job.scratch, slice(*job.scratch.blocks[b])
    target, dtype, w, loops = job.x[part].numpy(), job.seen.dtype, state.weights, on_cpu(state.kind)
    n = len(target)
    W_dec = state.dec_half if state.half else torch.from_numpy(w.W_dec)
    g, g_half, twin = scratch.g[part], pair(wide.g_half[part])[0], state.rules.twin
    product, vectors = pair(job.product(part)), state.coefficients(exp)
    chosen = matrix("chosen", n if twin else 0, state.d_sae, dtype)
    loops.dense_features(product, vectors, pair(wide.f[part]), pair(chosen))
    x_hat = matrix("x_hat", n, state.d_model, dtype)

    def slopes_of(f: torch.Tensor, out: torch.Tensor) -> float:
        """Errors with the features f into g, and from them the slopes in f."""
        decoded = pair(torch.mm(f, W_dec, out=x_hat))
        squared = elementwise.errors(decoded, w.b_dec, target, job.factor, g, g_half)
        torch.mm(wide.g_half[part] if state.half else torch.from_numpy(g), W_dec.T, out=out)
        return float(squared)

    h_twin = matrix("h_twin", n if twin else 0, state.d_sae, dtype)
    if twin:
        slopes_of(chosen, h_twin)
    scratch.squared[b] = slopes_of(wide.f[part], wide.h[part])
    scratch.d_bias[b] = 0
    tokens.add_rows(g, scratch.d_bias[b])
    sums = wide.sums[b], wide.total[b], wide.count[b], wide.seen[b]
    for each in sums:
        each[:] = 0
    bounds = vectors, state.low(w.vectors), state.norms, np.float32(job.penalty), state.constants
    h = pair(wide.h[part]), pair(h_twin)
    scratch.penalised[b] = loops.dense_slopes(product, *h, *bounds, *sums)
