"""What the shipped models are trained on: windows of text, mixed with repeated random segments.

Random tokens that recur teach induction long before text alone would (it takes about 10^5.7 *
sqrt(batch * context) tokens, arXiv 2511.16893).  Two kinds of windows have them:

    repeats    a random segment, again and again: the loss counts from the second pass on
    recalls    episodes of random tokens in which here and there a single token A of before comes
               again and is followed by what followed it: the loss counts there alone.  That is the
               prompt of [Wang 2025], many times a window; repeats alone leave a Mamba unable to do
               it, for a longer match than one token tells it where it is

The other tokens of both are noise, and learning them would spoil the prediction of text.  All is
drawn from (data seed, step), so that every model sees the same batches in the same order, and a run
resumes from its step alone.

[Wang 2025] "Towards Universality", arXiv 2410.06672.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mixture:
    """Windows of `context` + 1 tokens, a share of them random tokens that recur.

    Shares and lengths move from their start to their end over the first `over` steps.  Episodes
    of recalls are twice as long as the segments of repeats.
    """

    context: int = 256
    batch: int = 4
    ids: tuple[int, int] = (1, 4096)  # of uniform tokens: the first, and one after the last
    random_start: float = 0.5
    random_end: float = 0.3
    recall_share: float = 0.3  # of these, with single tokens that recur; the others repeat all
    recalls: float = 0.3  # of the tokens of an episode, that are an A which comes again
    recall_weight: float = 4.0  # of a recall in the loss; of every other token 1
    uniform_start: float = 0.0  # of these, with uniform tokens; the others by frequency in the text
    uniform_end: float = 0.5
    shortest: int = 3
    longest_start: int = 32
    longest_end: int = 64
    over: int = 6000
    seed: int = 0


def batch_at(mixture: Mixture, stream: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (batch, context + 1) int64, and weights (batch, context) float32 of their losses.

    The loss is that of predicting tokens[:, 1:].  `stream` is the training text as one array of
    token ids.
    """
    rng = np.random.default_rng((mixture.seed, 1, step))
    width = mixture.context + 1
    progress = min(1.0, step / mixture.over)
    n_windows = (len(stream) - 1) // mixture.context
    share = _moved(mixture.random_start, mixture.random_end, progress)
    longest = round(_moved(mixture.longest_start, mixture.longest_end, progress))
    uniform = _moved(mixture.uniform_start, mixture.uniform_end, progress)
    tokens = np.empty((mixture.batch, width), np.int64)
    weights = np.ones((mixture.batch, mixture.context), np.float32)
    for row in range(mixture.batch):
        epoch, index = divmod(step * mixture.batch + row, n_windows)
        if rng.random() >= share:
            start = _shuffled(mixture.seed, epoch, n_windows)[index] * mixture.context
            tokens[row] = stream[start : start + width]
            continue
        length = int(np.exp(rng.uniform(np.log(mixture.shortest), np.log(longest + 1))))
        ids = range(*mixture.ids) if rng.random() < uniform else None
        if rng.random() < mixture.recall_share:
            tokens[row], weights[row] = _recalls(rng, mixture, stream, 2 * length, ids)
            continue
        segment = random_segment(rng, stream, length, ids)
        tokens[row] = np.resize(segment, width)
        weights[row, : length - 1] = 0
    return tokens, weights


def _moved(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress


def _recalls(
    rng: np.random.Generator, mixture: Mixture, stream: np.ndarray, length: int, ids: range | None
) -> tuple[np.ndarray, np.ndarray]:
    """A window of episodes of `length` random tokens; weight where what follows an A is asked.

    Of an episode's tokens no two are alike but those that come again.  An A keeps what follows it:
    no token that once ended a recall begins one, for it is followed by two.
    """
    width = mixture.context + 1
    tokens, asked = np.empty(width, np.int64), np.zeros(width, np.float32)
    for start in range(0, width, length):
        end = min(start + length, width)
        fresh = iter(_distinct(rng, stream, end - start, ids))
        keys: list[int] = []  # places of tokens that may come again
        place, last_fresh = start, False
        while place < end:
            if keys and place + 1 < end and rng.random() < mixture.recalls:
                key = keys[rng.integers(len(keys))]
                tokens[place : place + 2] = tokens[key : key + 2]
                asked[place + 1] = mixture.recall_weight
                if key + 1 in keys:
                    keys.remove(key + 1)
                place, last_fresh = place + 2, False
                continue
            tokens[place] = next(fresh)
            if last_fresh:
                keys.append(place - 1)
            place, last_fresh = place + 1, True
    return tokens, asked[1:]


def random_segment(
    rng: np.random.Generator, stream: np.ndarray, length: int, ids: range | None
) -> np.ndarray:
    """`length` independent tokens: uniform among `ids`, or by frequency in the text."""
    if ids is not None:
        return rng.integers(ids.start, ids.stop, length)
    return stream[rng.integers(0, len(stream), length)]


def _distinct(
    rng: np.random.Generator, stream: np.ndarray, length: int, ids: range | None
) -> np.ndarray:
    """`length` tokens of which no two are alike, drawn one after the other without those before."""
    known = np.empty(0, np.int64)
    while len(known) < length:
        drawn = np.concatenate([known, random_segment(rng, stream, 2 * length, ids)])
        known = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
    return known[:length]


@functools.lru_cache(maxsize=1)
def _shuffled(seed: int, epoch: int, n_windows: int) -> np.ndarray:
    return np.random.default_rng((seed, 2, epoch)).permutation(n_windows)
