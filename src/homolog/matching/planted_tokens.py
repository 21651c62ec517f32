"""A stream of tokens, and latents that are functions of the current token alone.

Tokens are drawn independently, by Zipf's law: the k-th of V has probability 1 / (k H_V), H_V being
the sum of all 1 / k.  A function of the token fires wherever one of its tokens stands, and with a
value that depends on which:

    x_l(t) = w_l(s(t)),     w_l(s) > 0 for the tokens s of l, 0 for all others

One that knows a single token has w = 1; those of a set are log-normal with mean 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

SET_SIZES = (2, 8)  # fewest and most tokens of a set
LOG_SD = 0.5  # of w within a set


@dataclass(frozen=True, eq=False)
class TokenStream:
    """token: int32 (tokens,), ids by descending frequency.  probability: float64 (vocabulary,)."""

    token: Int[np.ndarray, "token"]
    probability: Float[np.ndarray, "vocabulary"]

    @classmethod
    def draw(cls, n_tokens: int, vocabulary: int, rng: np.random.Generator) -> TokenStream:
        probability = 1 / np.arange(1, vocabulary + 1)
        probability /= probability.sum()
        below = np.cumsum(probability)[:-1]
        return cls(np.searchsorted(below, rng.random(n_tokens)).astype(np.int32), probability)

    def singles(
        self, most: int, between: tuple[float, float], rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Up to `most` different tokens, one each, of frequencies `between`.

        A token is drawn with a weight in proportion to its frequency, so that frequencies are
        log-uniform as far as there are as many tokens.
        """
        low, high = between
        usual = np.flatnonzero((self.probability >= low) & (self.probability <= high))
        weight = self.probability[usual]
        count = min(most, len(usual))
        drawn = rng.choice(usual, count, replace=False, p=weight / weight.sum()) if count else usual
        return list(drawn[:count, None])

    def sets(self, often: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """A set of tokens for each frequency wanted: members lie within a factor 2 of its share."""
        sets, vocabulary = [], len(self.probability)
        for wanted in often:
            size = int(rng.integers(SET_SIZES[0], SET_SIZES[1] + 1))
            rank = size * self.probability[0] / wanted
            last = min(vocabulary, max(int(2 * rank), size))
            first = max(0, min(int(rank / 2), last - size))
            sets.append(first + rng.choice(last - first, size, replace=False))
        return sets

    def latents(
        self, sets: list[np.ndarray], rng: np.random.Generator
    ) -> tuple[Float[np.ndarray, "latents"], Any]:
        """Frequencies, and values: CSR float32 (tokens, latents)."""
        size = np.array([len(members) for members in sets], dtype=np.int64)
        ids = np.concatenate([np.zeros(0, np.int64), *sets])
        latent = np.repeat(np.arange(len(sets), dtype=np.int32), size)
        log = LOG_SD * rng.standard_normal(len(ids)) - LOG_SD**2 / 2
        weight = np.where(size[latent] == 1, 1, np.exp(log)).astype(np.float32)
        shape = (len(self.probability), len(sets))
        by_token: Any = scipy.sparse.csr_array(
            (weight, (ids.astype(np.int32), latent)), shape=shape
        )
        often = np.bincount(latent, self.probability[ids], len(sets)).astype(np.float64)
        return often, by_token[self.token]
