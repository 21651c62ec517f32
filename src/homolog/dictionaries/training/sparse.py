"""Gradients of a step from the active features alone: entries by token, then by feature."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from homolog.dictionaries.selection import sort_by_feature
from homolog.dictionaries.training import rows, tokens
from homolog.dictionaries.training.rules import on_cpu
from homolog.dictionaries.training.scratch import Job, Scratch, pair
from homolog.dictionaries.training.state import SaeState

Update = Callable[[int, int, tuple], None]
"""Moves the weights of features first to last (not included) by Adam with (rate, beta1, beta2, 1 /
(1 - beta1^t), 1 / (1 - beta2^t), epsilon), and counts in state.fired at how many tokens each was
active.
"""
_SAMPLE = 64  # tokens from which the smallest value that a batch keeps is guessed
_GUESSES = (2, 8)  # times k: the rank in the sample of the value from which entries are gathered


def sparse_step(job: Job) -> Update | None:
    """Losses into scratch.squared, scratch.penalised, slopes of b_dec into scratch.d_bias.

    The rest is for the returned update; None when more features are active than entries have room.
    """
    state, scratch = job.state, job.scratch
    if state.rules.select == "of batch":
        ends = _keep_of_batch(job)
    else:
        ends = _select_all(job, state.low(state.weights.vectors), state.k)
    if ends is None:
        return None
    job.each_block(lambda b: _differentiate(job, b, int(ends[b])))
    n_aux = _auxiliary(job)
    state.scalars[0] = scratch.n_entries(ends) / scratch.n_tokens
    _sort_by_feature(scratch, with_auxiliary=n_aux > 0)
    sorted_as = scratch.offset, scratch.order, scratch.token, scratch.n_tokens
    entries = *sorted_as, _features(state, scratch), scratch.d, scratch.v
    target, x = state.target(job.penalty), job.x.numpy()

    def update(first: int, last: int, rates: tuple) -> None:
        rows.update_sparse(first, last, entries, x, scratch.g, target, rates, state.fired)

    return update


def _sort_by_feature(scratch: Scratch, with_auxiliary: bool) -> None:
    """Fill scratch.order, scratch.offset and scratch.token from the entries of all blocks."""
    regions, spans = [], []
    for auxiliary in (False, True) if with_auxiliary else (False,):
        for b, (low, high) in enumerate(scratch.blocks):
            start = scratch.start(b, auxiliary)
            regions.append((start[0], start[-1]))
            spans.append((low + auxiliary * scratch.n_tokens, high - low))
    bounds = np.array(regions, np.int64), np.array(spans, np.int64), scratch.starts
    entries = scratch.token, scratch.order, scratch.offset
    sort_by_feature(scratch.index, *bounds, *entries)


def _features(state: SaeState, scratch: Scratch) -> np.ndarray:
    """The features of entries, which are their pre-activations where the kind says nothing else."""
    return scratch.value if state.rules.magnitude is None else scratch.f


def _select_all(job: Job, low: np.ndarray, k: int) -> np.ndarray | None:
    """Entries where product + low is above 0, or the k largest; where each block's end."""
    scratch, bias = job.scratch, job.state.weights.vectors[0]
    ends, dead = np.zeros(len(scratch.blocks), np.int64), dead_features(job.state)
    entries = scratch.index, scratch.value

    def work(b: int) -> None:
        product, start = pair(job.product(slice(*scratch.blocks[b]))), scratch.begin(b)
        if k:
            ends[b] = tokens.select_largest(product, bias, k, *entries, start)
        else:
            ends[b] = tokens.select_above(product, bias, low, scratch.limit, *entries, start)
        if len(dead):
            start = scratch.begin(b, True)
            tokens.select_dead(product, bias, dead, scratch.aux_k, *entries, start)

    job.each_block(work)
    return None if (ends < 0).any() else ends


def dead_features(state: SaeState) -> np.ndarray:
    """Features that the auxiliary loss trains, int32; none for kinds without one."""
    if state.auxiliary is None:
        return np.empty(0, np.int32)
    return np.flatnonzero(state.silent >= state.training.dead_after).astype(np.int32)


def _keep_of_batch(job: Job) -> np.ndarray:
    """Entries of the n k largest values above 0 of n tokens together; moves their running least.

    What a batch keeps begins at about the value that some of its tokens keep: entries from well
    below that value on are gathered, and cut exactly.
    """
    state, scratch = job.state, job.scratch
    bias, n_kept, blocks = state.weights.vectors[0], state.k * scratch.n_tokens, scratch.blocks
    every = max(1, len(job.seen) // _SAMPLE)
    sample = job.product(slice(0, every * _SAMPLE, every))
    values = (sample.float() + torch.from_numpy(bias)).flatten().numpy()
    for guess in (*_GUESSES, None):
        lowest = np.float32(0)
        if guess is None:
            scratch.make_entries(scratch.block * scratch.d_sae)
        else:
            rank = min(values.size, guess * state.k * len(sample))
            lowest = max(np.partition(values, values.size - rank)[-rank], lowest)
        ends = _select_all(job, bias - lowest, 0)
        if ends is not None and (lowest == 0 or scratch.n_entries(ends) >= n_kept):
            break
    assert ends is not None
    of_blocks = [scratch.value[b * scratch.region : ends[b]] for b in range(len(blocks))]
    gathered = np.concatenate(of_blocks)
    if gathered.size > n_kept:
        cut = np.partition(gathered, gathered.size - n_kept)[-n_kept]
        ties = n_kept - int((gathered > cut).sum())
        for b, of_block in enumerate(of_blocks):
            own = min(ties, int((of_block == cut).sum()))
            ends[b] = tokens.keep_from(cut, own, scratch.index, scratch.value, scratch.start(b))
            ties -= own
    else:
        cut = gathered.min() if gathered.size else np.float32(0)
    state.follow(float(cut))
    return ends


def _differentiate(job: Job, b: int, end: int) -> None:
    """Errors of a block of tokens, and slopes of its entries."""
    state, scratch, (low, high) = job.state, job.scratch, job.scratch.blocks[b]
    w, rules, loops = state.weights, state.rules, on_cpu(state.kind)
    target, g = job.x[low:high].numpy(), scratch.g[low:high]
    part, start, value = (b * scratch.region, end, scratch.index), scratch.start(b), scratch.value
    vectors, f = state.coefficients(np.exp), _features(state, scratch)
    if rules.magnitude is not None:
        loops.values(*part, value, vectors, f)

    def decode(features: np.ndarray, h: np.ndarray) -> float:
        entries = scratch.index, features, start
        return tokens.decode(target, w.b_dec, *entries, w.W_dec, job.factor, g, h)

    if rules.twin:
        decode(value, scratch.h_twin)
    scratch.squared[b] = decode(f, scratch.h)
    scratch.d_bias[b] = 0
    tokens.add_rows(g, scratch.d_bias[b])
    penalty, h = np.float32(job.penalty), (scratch.h, scratch.h_twin)
    slopes = (*h, vectors, state.norms, penalty, state.constants, scratch.d, scratch.v)
    scratch.penalised[b] = loops.slopes(*part, value, f, *slopes)


def _auxiliary(job: Job) -> int:
    """Slopes of the auxiliary loss: dead features model the error.  Returns how many are dead."""
    state, scratch, factor, n = job.state, job.scratch, job.factor, job.scratch.n_tokens
    n_dead, auxiliary = len(dead_features(state)), state.auxiliary
    if auxiliary is None or not n_dead:
        return 0
    weight = np.float32(auxiliary.weight * min(n_dead / auxiliary.k, 1.0)) * factor
    nothing = np.zeros(state.d_model, np.float32)

    def work(b: int) -> None:
        low, high = scratch.blocks[b]
        error, start = scratch.g[low:high] * (np.float32(-1) / factor), scratch.start(b, True)
        entries, g = (scratch.index, scratch.value, start), scratch.g[n + low : n + high]
        tokens.decode(error, nothing, *entries, state.weights.W_dec, weight, g, scratch.h)
        scratch.d[start[0] : start[-1]] = scratch.h[start[0] : start[-1]]

    job.each_block(work)
    return n_dead
