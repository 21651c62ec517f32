"""Gradients of a step from the active features alone: entries by token, then by feature."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from homolog.dictionaries.hardware import Threads
from homolog.dictionaries.training import rows, tokens
from homolog.dictionaries.training.rules import on_cpu
from homolog.dictionaries.training.scratch import Scratch, matrix, pair
from homolog.dictionaries.training.state import SaeState

Update = Callable[[int, int, tuple], None]
"""Moves the weights of features first to last (not included) by Adam with (rate, beta1, beta2, 1 /
(1 - beta1^t), 1 / (1 - beta2^t), epsilon), and counts in state.fired at how many tokens each was
active.
"""
_SAMPLE = 64  # tokens from which the smallest value that a batch keeps is guessed
_GUESSES = (2, 8)  # times k: the rank in the sample of the value from which entries are gathered


def product_of(state: SaeState, seen: torch.Tensor) -> torch.Tensor:
    """x W_enc, (token, d_sae), as precise as `seen`; the thread's next product overwrites it."""
    return torch.mm(
        seen, state.W_product.T, out=matrix("product", len(seen), state.d_sae, seen.dtype)
    )


def sparse_step(
    state: SaeState,
    x: torch.Tensor,
    seen: torch.Tensor,
    penalty: float,
    scratch: Scratch,
    threads: Threads,
) -> Update | None:
    """Losses into scratch.squared, scratch.penalised, slopes of b_dec into scratch.d_bias.

    The rest is for the returned update; None when more features are active than entries have room.
    penalty: its weight over the number of tokens.
    """
    blocks = range(len(scratch.blocks))
    if state.rules.select == "of batch":
        ends = _keep_of_batch(state, seen, scratch, threads)
    else:
        low = state.low(state.weights.vectors)
        ends = _select_all(state, seen, scratch, threads, low=low, k=state.k)
    if ends is None:
        return None
    threads.run(lambda b: _differentiate(state, x, penalty, scratch, b, int(ends[b])), blocks)
    n_aux = _auxiliary(state, scratch, threads)
    state.scalars[0] = sum(int(ends[b]) - b * scratch.region for b in blocks) / scratch.n_tokens
    _sort_by_feature(scratch, with_auxiliary=n_aux > 0)
    sorted_as = scratch.offset, scratch.order, scratch.token, scratch.n_tokens
    entries = *sorted_as, _features(state, scratch), scratch.d, scratch.v
    target = state.target(penalty)

    def update(first: int, last: int, rates: tuple) -> None:
        rows.update_sparse(first, last, entries, x.numpy(), scratch.g, target, rates, state.fired)

    return update


def _sort_by_feature(scratch: Scratch, with_auxiliary: bool) -> None:
    """Fill scratch.order, scratch.offset and scratch.token from the entries of all blocks."""
    regions, spans = [], []
    for auxiliary in (False, True) if with_auxiliary else (False,):
        for b, (low, high) in enumerate(scratch.blocks):
            start = scratch.start(b, auxiliary)
            regions.append((start[0], start[-1]))
            spans.append((low + auxiliary * scratch.n_tokens, high - low))
    rows.sort_by_feature(
        scratch.index,
        np.array(regions, np.int64),
        np.array(spans, np.int64),
        scratch.starts,
        scratch.token,
        scratch.order,
        scratch.offset,
    )


def _features(state: SaeState, scratch: Scratch) -> np.ndarray:
    """The features of entries, which are their pre-activations where the kind says nothing else."""
    return scratch.value if state.rules.magnitude is None else scratch.f


def _select_all(
    state: SaeState,
    seen: torch.Tensor,
    scratch: Scratch,
    threads: Threads,
    *,
    low: np.ndarray,
    k: int,
) -> np.ndarray | None:
    """Entries where product + low is above 0, or the k largest; where each block's end."""
    ends = np.zeros(len(scratch.blocks), np.int64)
    dead = dead_features(state)
    bias = state.weights.vectors[0]

    def work(b: int) -> None:
        first, last = scratch.blocks[b]
        half, full = pair(product_of(state, seen[first:last]))
        product = (half, full, half.size > 0)
        start = scratch.begin(b)
        if k:
            ends[b] = tokens.select_largest(*product, bias, k, scratch.index, scratch.value, start)
        else:
            ends[b] = tokens.select_above(
                *product, bias, low, scratch.limit, scratch.index, scratch.value, start
            )
        if len(dead):
            start = scratch.begin(b, True)
            tokens.select_dead(
                *product, bias, dead, scratch.aux_k, scratch.index, scratch.value, start
            )

    threads.run(work, range(len(scratch.blocks)))
    return None if (ends < 0).any() else ends


def dead_features(state: SaeState) -> np.ndarray:
    """Features that the auxiliary loss trains, int32; none for kinds without one."""
    if state.auxiliary is None:
        return np.empty(0, np.int32)
    return np.flatnonzero(state.silent >= state.training.dead_after).astype(np.int32)


def _keep_of_batch(
    state: SaeState, seen: torch.Tensor, scratch: Scratch, threads: Threads
) -> np.ndarray:
    """Entries of the n k largest values above 0 of n tokens together; moves their running least.

    What a batch keeps begins at about the value that some of its tokens keep: entries from well
    below that value on are gathered, and cut exactly.
    """
    bias, n_kept = state.weights.vectors[0], state.k * scratch.n_tokens
    sample = seen[:: max(1, len(seen) // _SAMPLE)][:_SAMPLE]
    values = (product_of(state, sample).float() + torch.from_numpy(bias)).flatten().numpy()
    blocks = range(len(scratch.blocks))
    for guess in (*_GUESSES, None):
        rank = values.size if guess is None else min(values.size, guess * state.k * len(sample))
        lowest = (
            np.float32(0)
            if guess is None
            else max(np.partition(values, values.size - rank)[-rank], np.float32(0))
        )
        if guess is None:
            scratch.make_entries(scratch.block * scratch.d_sae)
        ends = _select_all(state, seen, scratch, threads, low=bias - lowest, k=0)
        if ends is not None and (
            lowest == 0 or sum(int(ends[b]) - b * scratch.region for b in blocks) >= n_kept
        ):
            break
    assert ends is not None
    gathered = np.concatenate([scratch.value[b * scratch.region : ends[b]] for b in blocks])
    if gathered.size > n_kept:
        cut = np.partition(gathered, gathered.size - n_kept)[-n_kept]
        ties = n_kept - int((gathered > cut).sum())
        for b in blocks:
            equal = int((scratch.value[b * scratch.region : ends[b]] == cut).sum())
            ends[b] = tokens.keep_from(
                cut, min(ties, equal), scratch.index, scratch.value, scratch.start(b)
            )
            ties -= min(ties, equal)
    else:
        cut = gathered.min() if gathered.size else np.float32(0)
    state.follow(float(cut))
    return ends


def _differentiate(
    state: SaeState, x: torch.Tensor, penalty: float, scratch: Scratch, b: int, end: int
) -> None:
    """Errors of a block of tokens, and slopes of its entries."""
    low, high = scratch.blocks[b]
    w, rules, loops = state.weights, state.rules, on_cpu(state.kind)
    target, g, factor = x[low:high].numpy(), scratch.g[low:high], np.float32(2 / scratch.n_tokens)
    part, start = (b * scratch.region, end, scratch.index), scratch.start(b)
    vectors, f = state.coefficients(np.exp), _features(state, scratch)
    if rules.magnitude is not None:
        loops.values(*part, scratch.value, vectors, f)
    if rules.twin:
        tokens.decode(
            target, w.b_dec, scratch.index, scratch.value, start, w.W_dec, factor, g, scratch.h_twin
        )
    scratch.squared[b] = tokens.decode(
        target, w.b_dec, scratch.index, f, start, w.W_dec, factor, g, scratch.h
    )
    scratch.d_bias[b] = 0
    tokens.add_rows(g, scratch.d_bias[b])
    slopes = (scratch.h, scratch.h_twin, vectors, state.norms, np.float32(penalty), state.constants)
    scratch.penalised[b] = loops.slopes(*part, scratch.value, f, *slopes, scratch.d, scratch.v)


def _auxiliary(state: SaeState, scratch: Scratch, threads: Threads) -> int:
    """Slopes of the auxiliary loss: dead features model the error.  Returns how many are dead."""
    n_dead, auxiliary = len(dead_features(state)), state.auxiliary
    if auxiliary is None or not n_dead:
        return 0
    factor = np.float32(2 / scratch.n_tokens)
    weight = np.float32(auxiliary.weight * min(n_dead / auxiliary.k, 1.0)) * factor
    nothing = np.zeros(state.d_model, np.float32)

    def work(b: int) -> None:
        low, high = scratch.blocks[b]
        error = scratch.g[low:high] * (np.float32(-1) / factor)
        start, g = (
            scratch.start(b, True),
            scratch.g[scratch.n_tokens + low : scratch.n_tokens + high],
        )
        tokens.decode(
            error,
            nothing,
            scratch.index,
            scratch.value,
            start,
            state.weights.W_dec,
            weight,
            g,
            scratch.h,
        )
        scratch.d[start[0] : start[-1]] = scratch.h[start[0] : start[-1]]

    threads.run(work, range(len(scratch.blocks)))
    return n_dead
