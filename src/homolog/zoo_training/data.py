"""What the shipped models are trained on: windows of text, mixed with repeated random segments.

Random segments that repeat teach induction long before text alone would (it takes about 10^5.7 *
sqrt(batch * context) tokens, arXiv 2511.16893).  In a repeated window the loss counts from the
second pass on: the first pass is noise, and learning it would spoil the prediction of text.  All is
drawn from (data seed, step), so that every model sees the same batches in the same order, and a run
resumes from its step alone.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mixture:
    """Windows of `context` + 1 tokens, a share of them repeats.

    Shares and lengths move from their start to their end over the first `over` steps.
    """

    context: int = 256
    batch: int = 8
    ids: tuple[int, int] = (1, 4096)  # of uniform segments: the first, and one after the last
    repeats_start: float = 0.5
    repeats_end: float = 0.25
    uniform_share: float = 0.5  # of the repeats; the others follow the text's frequencies
    shortest: int = 3
    longest_start: int = 32
    longest_end: int = 64
    over: int = 3000
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
    share = mixture.repeats_start + (mixture.repeats_end - mixture.repeats_start) * progress
    growth = mixture.longest_end - mixture.longest_start
    longest = round(mixture.longest_start + growth * progress)
    tokens = np.empty((mixture.batch, width), np.int64)
    weights = np.ones((mixture.batch, mixture.context), np.float32)
    for row in range(mixture.batch):
        epoch, index = divmod(step * mixture.batch + row, n_windows)
        if rng.random() >= share:
            start = _shuffled(mixture.seed, epoch, n_windows)[index] * mixture.context
            tokens[row] = stream[start : start + width]
            continue
        length = int(np.exp(rng.uniform(np.log(mixture.shortest), np.log(longest + 1))))
        ids = range(*mixture.ids) if rng.random() < mixture.uniform_share else None
        segment = random_segment(rng, stream, length, ids)
        tokens[row] = np.resize(segment, width)
        weights[row, : length - 1] = 0
    return tokens, weights


def random_segment(
    rng: np.random.Generator, stream: np.ndarray, length: int, ids: range | None
) -> np.ndarray:
    """`length` independent tokens: uniform among `ids`, or by frequency in the text."""
    if ids is not None:
        return rng.integers(ids.start, ids.stop, length)
    return stream[rng.integers(0, len(stream), length)]


@functools.lru_cache(maxsize=1)
def _shuffled(seed: int, epoch: int, n_windows: int) -> np.ndarray:
    return np.random.default_rng((seed, 2, epoch)).permutation(n_windows)
