"""Gradients of a step from the active features alone: entries by token, then by feature."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from homolog.dictionaries.configs import BatchTopKConfig, GatedConfig, JumpReluConfig, TopKConfig
from homolog.dictionaries.hardware import Threads
from homolog.dictionaries.training import rows, tokens
from homolog.dictionaries.training.scratch import Room, matrix, pair
from homolog.dictionaries.training.state import SaeState

Update = Callable[[int, int, tuple], None]
"""Moves the weights of features first to last (not included) by Adam with (rate, beta1, beta2, 1 /
(1 - beta1^t), 1 / (1 - beta2^t), epsilon), and counts in state.fired at how many tokens each was
active.
"""
_SAMPLE = 64  # tokens from which the smallest value that a batch keeps is guessed
_GUESSES = (2, 8)  # times k: the rank in the sample of the value from which entries are gathered


def product_of(state: SaeState, seen: torch.Tensor) -> torch.Tensor:
    """x W_enc, (token, d_sae), in the precision of `seen`; the thread's next product overwrites it."""
    return torch.mm(
        seen, state.W_product.T, out=matrix("product", len(seen), state.d_sae, seen.dtype)
    )


def sparse_step(
    state: SaeState,
    x: torch.Tensor,
    seen: torch.Tensor,
    penalty: float,
    room: Room,
    threads: Threads,
) -> Update | None:
    """Losses into room.squared, room.penalised, slopes of b_dec into room.d_bias; the rest is for
    the returned update.

    penalty: weight over the number of tokens.  None when more features are active than entries have
    room.
    """
    blocks = range(len(room.blocks))
    if isinstance(state.config, BatchTopKConfig):
        ends = _keep_of_batch(state, seen, room, threads)
    else:
        ends = _select_all(state, seen, room, threads, low=_low(state), k=room.k)
    if ends is None:
        return None
    threads.run(lambda b: _differentiate(state, x, penalty, room, b, int(ends[b])), blocks)
    n_aux = _auxiliary(state, room, threads)
    state.scalars[0] = sum(int(ends[b]) - b * room.region for b in blocks) / room.n_tokens
    places = [(b, room.start(b), room.blocks[b]) for b in blocks]
    regions = [(start[0], start[-1]) for _, start, _ in places]
    spans = [(low, high - low) for _, _, (low, high) in places]
    if n_aux:
        regions += [(room.start(b, True)[0], room.start(b, True)[-1]) for b in blocks]
        spans += [(room.n_tokens + low, high - low) for low, high in room.blocks]
    rows.sort_by_feature(
        room.index,
        np.array(regions, np.int64),
        np.array(spans, np.int64),
        room.starts,
        room.token,
        room.order,
        room.offset,
    )
    f = room.f if state.config.kind in ("jumprelu", "gated") else room.value
    w, config = state.targets(), state.config

    def update(first: int, last: int, rates: tuple) -> None:
        rows.update_sparse(
            first,
            last,
            room.offset,
            room.order,
            room.token,
            room.n_tokens,
            f,
            room.d,
            room.v,
            x.numpy(),
            room.g,
            *w,
            np.float32(0 if state.unit else penalty),
            state.unit,
            config.freeze_decoder,
            rates,
            state.fired,
        )

    return update


def _low(state: SaeState) -> np.ndarray:
    """Bias with which a product is above 0 where the step has to see the feature."""
    bias = state.weights.vectors[0]
    if isinstance(state.config, JumpReluConfig):
        return bias - state.weights.vectors[1] + np.float32(state.config.bandwidth / 2)
    return bias


def _select_all(
    state: SaeState, seen: torch.Tensor, room: Room, threads: Threads, *, low: np.ndarray, k: int
) -> np.ndarray | None:
    """Entries of all blocks, where `product + low` is above 0, or the k largest; returns where each
    block's end.
    """
    ends = np.zeros(len(room.blocks), np.int64)
    dead = dead_features(state)
    bias = state.weights.vectors[0]

    def work(b: int) -> None:
        first, last = room.blocks[b]
        half, full = pair(product_of(state, seen[first:last]))
        product = (half, full, half.size > 0)
        start = room.begin(b)
        if k:
            ends[b] = tokens.select_largest(*product, bias, k, room.index, room.value, start)
        else:
            ends[b] = tokens.select_above(
                *product, bias, low, room.limit, room.index, room.value, start
            )
        if len(dead):
            start = room.begin(b, True)
            tokens.select_dead(*product, bias, dead, room.aux_k, room.index, room.value, start)

    threads.run(work, range(len(room.blocks)))
    return None if (ends < 0).any() else ends


def dead_features(state: SaeState) -> np.ndarray:
    """Features that the auxiliary loss trains, int32; none for kinds without one."""
    if not isinstance(state.config, TopKConfig) or state.config.aux_weight == 0:
        return np.empty(0, np.int32)
    return np.flatnonzero(state.silent >= state.training.dead_after).astype(np.int32)


def _keep_of_batch(state: SaeState, seen: torch.Tensor, room: Room, threads: Threads) -> np.ndarray:
    """Entries of the n k largest values above 0 of all n tokens together; moves the running
    threshold.

    What a batch keeps begins at about the value that some of its tokens keep: entries from well
    below that value on are gathered, and cut exactly.
    """
    config = state.config
    assert isinstance(config, BatchTopKConfig)
    bias, n_kept = state.weights.vectors[0], room.k * room.n_tokens
    sample = seen[:: max(1, len(seen) // _SAMPLE)][:_SAMPLE]
    values = (product_of(state, sample).float() + torch.from_numpy(bias)).flatten().numpy()
    blocks = range(len(room.blocks))
    for guess in (*_GUESSES, None):
        rank = values.size if guess is None else min(values.size, guess * room.k * len(sample))
        lowest = (
            np.float32(0)
            if guess is None
            else max(np.partition(values, values.size - rank)[-rank], np.float32(0))
        )
        if guess is None:
            room.make_entries(room.block * room.d_sae)
        ends = _select_all(state, seen, room, threads, low=bias - lowest, k=0)
        if ends is not None and (
            lowest == 0 or sum(int(ends[b]) - b * room.region for b in blocks) >= n_kept
        ):
            break
    assert ends is not None
    found = np.concatenate([room.value[b * room.region : ends[b]] for b in blocks])
    if found.size > n_kept:
        cut = np.partition(found, found.size - n_kept)[-n_kept]
        ties = n_kept - int((found > cut).sum())
        for b in blocks:
            equal = int((room.value[b * room.region : ends[b]] == cut).sum())
            ends[b] = tokens.keep_from(cut, min(ties, equal), room.index, room.value, room.start(b))
            ties -= min(ties, equal)
    else:
        cut = found.min() if found.size else np.float32(0)
    rate = config.threshold_rate if state.scalars[1] > 0 else 1.0
    state.scalars[1] += rate * (float(cut) - state.scalars[1])
    return ends


def _differentiate(
    state: SaeState, x: torch.Tensor, penalty: float, room: Room, b: int, end: int
) -> None:
    """Errors of a block of tokens, and slopes of its entries."""
    low, high = room.blocks[b]
    first, start, w, kind = b * room.region, room.start(b), state.weights, state.config.kind
    target, g, factor, push = (
        x[low:high].numpy(),
        room.g[low:high],
        np.float32(2 / room.n_tokens),
        np.float32(penalty),
    )
    part = (first, end, room.index)
    room.penalised[b] = 0
    if kind == "jumprelu":
        room.penalised[b] = tokens.jump_values(*part, room.value, w.vectors[1], room.f)
    if kind == "gated":
        scale = np.exp(w.vectors[2])
        tokens.gated_values(*part, room.value, w.vectors[0], w.vectors[1], scale, room.f)
        tokens.decode(
            target, w.b_dec, room.index, room.value, start, w.W_dec, factor, g, room.h_gate
        )
    f = room.f if kind in ("jumprelu", "gated") else room.value
    room.squared[b] = tokens.decode(
        target, w.b_dec, room.index, f, start, w.W_dec, factor, g, room.h
    )
    room.d_bias[b] = 0
    tokens.add_rows(g, room.d_bias[b])
    if isinstance(state.config, JumpReluConfig):
        width = np.float32(state.config.bandwidth)
        tokens.jumprelu_slopes(*part, room.value, room.h, w.vectors[1], push, width, room.d, room.v)
    elif isinstance(state.config, GatedConfig):
        tokens.gated_slopes(
            *part, f, room.h, room.h_gate, w.vectors[1], scale, push, room.d, room.v
        )
        room.penalised[b] = float(room.value[first:end].sum(dtype=np.float64))
    else:
        room.penalised[b] = tokens.relu_slopes(*part, room.value, room.h, state.norms, push, room.d)


def _auxiliary(state: SaeState, room: Room, threads: Threads) -> int:
    """Slopes of the auxiliary loss: dead features model the error.  Returns how many are dead."""
    n_dead, config = len(dead_features(state)), state.config
    if not n_dead:
        return 0
    assert isinstance(config, TopKConfig)
    factor = np.float32(2 / room.n_tokens)
    weight = np.float32(config.aux_weight * min(n_dead / config.aux_k, 1.0)) * factor
    nothing = np.zeros(state.d_model, np.float32)

    def work(b: int) -> None:
        low, high = room.blocks[b]
        error = room.g[low:high] * (np.float32(-1) / factor)
        start, g = room.start(b, True), room.g[room.n_tokens + low : room.n_tokens + high]
        tokens.decode(
            error, nothing, room.index, room.value, start, state.weights.W_dec, weight, g, room.h
        )
        room.d[start[0] : start[-1]] = room.h[start[0] : start[-1]]

    threads.run(work, range(len(room.blocks)))
    return n_dead
