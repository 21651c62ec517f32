"""Random sparse features for the benchmarks, with frequencies as in a dictionary."""

from __future__ import annotations

import numpy as np
import scipy.sparse

EXPONENT = 0.7
OFFSET = 8.0
MOST_FREQUENT = 0.7
KEPT = 0.8  # share of the firings that a copy has from its original
SMALLEST = np.float32(1e-6)  # a drawn value may round to 0, which would not be an entry

Feature = tuple[np.ndarray, np.ndarray]  # tokens it fires on (int32, ascending), values (float32)


def frequencies(features: int, active: float) -> np.ndarray:
    """Frequencies proportional to (rank + 8)^-0.7, at most 0.7, whose sum is `active`."""
    weight = (np.arange(features) + OFFSET) ** -EXPONENT
    scale = active / weight.sum()
    for _ in range(50):
        scale *= active / np.minimum(MOST_FREQUENT, scale * weight).sum()
    return np.minimum(MOST_FREQUENT, scale * weight)


def skewed_features(tokens: int, features: int, active: float, seed: int) -> scipy.sparse.csr_array:
    """Independent features, `active` a token on average, in random order.

    Float32 CSR (tokens, features); values exponential with mean 1.  The gaps between the firings of
    a feature are geometric, so that only its firings are drawn and not every token.
    """
    generator = np.random.default_rng(seed)
    return _matrix(
        generator, [_draw(generator, p, tokens) for p in frequencies(features, active)], tokens
    )


def skewed_pair(
    tokens: int, features: int, active: float, seed: int = 0
) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """Both sides of a layer pair: every second feature of B is a noisy copy of one of A.

    The others are as in `skewed_features`.  A copy has 80 % of the firings of its original, with
    values times a factor uniform in [0.5, 1.5], and as many others as it has lost.
    """
    generator = np.random.default_rng(seed)
    a, b = [], []
    for rank, frequency in enumerate(frequencies(features, active)):
        a.append(_draw(generator, frequency, tokens))
        b.append(
            _copy(generator, a[-1], frequency, tokens)
            if rank % 2
            else _draw(generator, frequency, tokens)
        )
    return _matrix(generator, a, tokens), _matrix(generator, b, tokens)


def _draw(generator: np.random.Generator, frequency: float, tokens: int) -> Feature:
    expected = tokens * frequency
    at_once = int(expected + 5 * expected**0.5 + 10)
    token = generator.geometric(frequency, at_once).cumsum() - 1
    while token[-1] < tokens:
        token = np.concatenate(
            [token, token[-1] + generator.geometric(frequency, at_once).cumsum()]
        )
    token = token[: np.searchsorted(token, tokens)].astype(np.int32)
    return token, np.maximum(generator.standard_exponential(len(token), dtype=np.float32), SMALLEST)


def _copy(
    generator: np.random.Generator, original: Feature, frequency: float, tokens: int
) -> Feature:
    kept = generator.random(len(original[0]), dtype=np.float32) < KEPT
    own, own_value = _draw(generator, (1 - KEPT) * frequency, tokens)
    token, place = np.unique(np.concatenate([original[0][kept], own]), return_index=True)
    noise = np.float32(0.5) + generator.random(int(kept.sum()), dtype=np.float32)
    return token, np.concatenate([original[1][kept] * noise, own_value])[place]


def _matrix(
    generator: np.random.Generator, features: list[Feature], tokens: int
) -> scipy.sparse.csr_array:
    """The features in random order."""
    features = [features[rank] for rank in generator.permutation(len(features))]
    token, value = (np.concatenate(part) for part in zip(*features, strict=True))
    start = np.concatenate([[0], np.cumsum([len(fires) for fires, _ in features])]).astype(
        token.dtype
    )
    return scipy.sparse.csc_array((value, token, start), shape=(tokens, len(features))).tocsr()
