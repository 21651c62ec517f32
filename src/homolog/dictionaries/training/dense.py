"""Gradients of a step from products of whole matrices, for ReLU, JumpReLU and Gated while many
features are active.
"""

from __future__ import annotations

import numpy as np
import torch

from homolog.dictionaries.configs import JumpReluConfig
from homolog.dictionaries.hardware import Threads
from homolog.dictionaries.training import elementwise, rows, tokens
from homolog.dictionaries.training.scratch import Room, Wide, matrix, pair
from homolog.dictionaries.training.sparse import Update, product_of
from homolog.dictionaries.training.state import SaeState

_KIND = {"relu": elementwise.RELU, "jumprelu": elementwise.JUMPRELU, "gated": elementwise.GATED}


def dense_step(
    state: SaeState,
    x: torch.Tensor,
    seen: torch.Tensor,
    penalty: float,
    room: Room,
    threads: Threads,
) -> Update:
    """What `sparse.sparse_step` does, at a cost that does not depend on how many features are
    active.
    """
    wide = room.wide = room.wide or Wide(state, room.n_tokens, len(room.blocks))
    W_dec = state.dec_half if state.half else torch.from_numpy(state.weights.W_dec)
    threads.run(
        lambda b: _differentiate(state, x, seen, penalty, room, wide, W_dec, b),
        range(len(room.blocks)),
    )
    sums, total, count = wide.sums.sum(0), wide.total.sum(0), wide.count.sum(0)
    used = total if state.config.kind == "jumprelu" else count
    state.scalars[0] = float(used.sum(dtype=np.float64)) / room.n_tokens
    state.fired[:] = count
    g = wide.g_half if state.half else torch.from_numpy(room.g[: room.n_tokens])
    w, config = state.targets(), state.config

    def update(first: int, last: int, rates: tuple) -> None:
        part = slice(first, last)
        G_enc = torch.mm(
            wide.h[:, part].T, seen, out=matrix("G_enc", last - first, state.d_model, seen.dtype)
        )
        G_dec = torch.mm(
            wide.f[:, part].T, g, out=matrix("G_dec", last - first, state.d_model, g.dtype)
        )
        rows.update_dense(
            first,
            last,
            G_enc.float().numpy(),
            G_dec.float().numpy(),
            sums,
            total,
            *w,
            np.float32(0 if state.unit else penalty),
            state.unit,
            config.freeze_decoder,
            rates,
        )

    return update


def _differentiate(
    state: SaeState,
    x: torch.Tensor,
    seen: torch.Tensor,
    penalty: float,
    room: Room,
    wide: Wide,
    W_dec: torch.Tensor,
    b: int,
) -> None:
    """Features, errors and slopes of a block of tokens."""
    low, high = room.blocks[b]
    part, n, w, kind = slice(low, high), high - low, state.weights, _KIND[state.config.kind]
    target, factor, dtype = x[part].numpy(), np.float32(2 / room.n_tokens), seen.dtype
    g = room.g[part]
    product = pair(product_of(state, seen[part]))
    gated = kind == elementwise.GATED
    chosen = matrix("chosen", n if gated else 0, state.d_sae, dtype)
    elementwise.features(kind, product, w.vectors, pair(wide.f[part]), pair(chosen))
    g_half = pair(wide.g_half[part])[0]
    h_gate = chosen
    x_hat = matrix("x_hat", n, state.d_model, dtype)

    def slopes_of(f: torch.Tensor, out: torch.Tensor) -> float:
        """Errors with the features f into g, and from them the slopes in f."""
        squared = elementwise.errors(
            pair(torch.mm(f, W_dec, out=x_hat)), w.b_dec, target, factor, g, g_half
        )
        torch.mm(wide.g_half[part] if state.half else torch.from_numpy(g), W_dec.T, out=out)
        return float(squared)

    if gated:
        h_gate = matrix("h_gate", n, state.d_sae, dtype)
        slopes_of(chosen, h_gate)
    room.squared[b] = slopes_of(wide.f[part], wide.h[part])
    room.d_bias[b] = 0
    tokens.add_rows(g, room.d_bias[b])
    wide.sums[b], wide.total[b], wide.count[b] = 0, 0, 0
    width = np.float32(state.config.bandwidth if isinstance(state.config, JumpReluConfig) else 1)
    room.penalised[b] = elementwise.slopes(
        kind,
        product,
        pair(wide.h[part]),
        pair(h_gate),
        w.vectors,
        state.norms,
        np.float32(penalty),
        width,
        wide.sums[b],
        wide.total[b],
        wide.count[b],
    )
