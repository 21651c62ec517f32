"""Latents that fire by documents, noisy copies of them, and latents that controls know.

`planted` has the equations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from homolog.matching.planted_tokens import TokenStream
from homolog.matching.planting import KINDS, Planting

LARGEST_RATE = 0.5  # of a latent within one document
MOST_NOISE = 0.95  # of a stand-in's copy
LOG_SD = 0.5  # of log-normal values
SHORTEST_DOCUMENT = 16


def document_starts(
    n_tokens: int, mean: float, rng: np.random.Generator
) -> Int[np.ndarray, "starts"]:
    """First token of each document, and n_tokens at the end, int32."""
    most = int(n_tokens // SHORTEST_DOCUMENT) + 1
    beyond = rng.exponential(max(mean - SHORTEST_DOCUMENT, 0.0), most).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(SHORTEST_DOCUMENT + beyond)])
    return np.append(start[start < n_tokens], n_tokens).astype(np.int32)


def activity(
    planting: Planting, rows: int, n_documents: int, rng: np.random.Generator
) -> Float[np.ndarray, "rows docs"]:
    """g, float32: how much more than on average each latent fires in each document."""
    shape = planting.topic_shape
    gamma = rng.standard_gamma(shape, (rows, n_documents), dtype=np.float32)
    return gamma / np.float32(shape)


@dataclass(frozen=True, eq=False)
class Latents:
    """Frequencies (count,), rates float32 (count, documents), CSR values, kinds (count,)."""

    often: np.ndarray
    rate: np.ndarray
    values: Any
    kind: np.ndarray

    @classmethod
    def joined(cls, parts: list[Latents]) -> Latents:
        return cls(
            np.concatenate([part.often for part in parts]),
            np.concatenate([part.rate for part in parts]),
            scipy.sparse.hstack([part.values for part in parts], format="csr"),
            np.concatenate([part.kind for part in parts]),
        )

    def plus(self, other: Latents, kind: str) -> Latents:
        """Each with its own of the other: the sum of both."""
        often, rate = self.often + other.often, self.rate + other.rate
        return Latents(often, rate, (self.values + other.values).tocsr(), _kinds(kind, len(often)))


def _kinds(kind: str, count: int) -> np.ndarray:
    return np.full(count, kind, dtype=f"<U{max(map(len, KINDS))}")


@dataclass(frozen=True, eq=False)
class Drawing:
    """One stream of random numbers, from which everything is drawn in a fixed order."""

    planting: Planting
    start: np.ndarray
    topics: np.ndarray
    rng: np.random.Generator

    def latents(self, count: int, kind: str = "own") -> Latents:
        """Latents that fire by documents."""
        topics, (low, high) = self.topics, self.planting.frequency
        often = np.exp(self.rng.uniform(np.log(low), np.log(high), count))
        if len(topics):
            own = topics[self.rng.integers(len(topics), size=count)]
        else:
            own = activity(self.planting, count, len(self.start) - 1, self.rng)
        rate = np.minimum(often[:, None].astype(np.float32) * own, np.float32(LARGEST_RATE))
        return Latents(often, rate, self.valued(self.firings(rate)), _kinds(kind, count))

    def controlled(self, stream: TokenStream, n_columns: int) -> tuple[Latents, Latents]:
        """Latents that are no homologs, of `n_columns` without a partner; at their end the mixtures
        and before those the latents of untrained models.  And what a stand-in has of these last.
        """
        planting = self.planting
        n_tokens, n_untrained, n_mixed = (
            round(share * n_columns)
            for share in (planting.by_token, planting.in_untrained, planting.mixed)
        )
        n_mixed = min(n_mixed, n_columns - n_tokens - n_untrained)
        singles = stream.singles(n_tokens // 2, planting.frequency, self.rng)
        low, high = np.log(planting.frequency)
        often = np.exp(self.rng.uniform(low, high, n_tokens - len(singles)))
        single = self.by_token(stream, singles, "token")
        several = self.by_token(stream, stream.sets(often, self.rng), "token set")
        untrained = self.latents(n_untrained, "untrained")
        part = self.latents(n_mixed)
        added = self.by_token(stream, stream.sets(part.often, self.rng), "token set")
        mixed = part.plus(added, "mixture")
        return (
            Latents.joined([single, several, untrained, mixed]),
            Latents.joined([untrained, part]),
        )

    def by_token(self, stream: TokenStream, sets: list[np.ndarray], kind: str) -> Latents:
        """Functions of the current token, as likely in every document."""
        often, values = stream.latents(sets, self.rng)
        rate = np.repeat(often[:, None].astype(np.float32), len(self.start) - 1, axis=1)
        return Latents(often, rate, values, _kinds(kind, len(sets)))

    def noise_of_untrained(self, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Noise of the copies that the stand-ins of A, which has none, and of B have."""
        more = self.planting.untrained_noise
        return np.full(len(level), more), np.minimum(
            level + more, max(MOST_NOISE, level.max(initial=0))
        )

    def firings(self, rate: np.ndarray) -> Any:
        """Independent firings (tokens, latents) with the `rate` (latents, documents) of a document.

        Poisson points hit a token at least once with probability 1 - exp(-intensity),
        independently: so an intensity of -log(1 - rate) gives Bernoulli(rate) exactly, at the cost
        of the firings alone.
        """
        start, rng = self.start, self.rng
        length = np.diff(start)
        count = rng.poisson(-np.log1p(-rate.astype(np.float64)) * length)
        cell = np.repeat(np.arange(count.size, dtype=np.int32), count.ravel())
        cell %= np.int32(len(length))
        token = (rng.random(len(cell)) * length[cell]).astype(np.int32) + start[cell]
        indptr = np.concatenate([[0], np.cumsum(count.sum(axis=1))]).astype(np.int32)
        ones = np.ones(len(token), dtype=np.float32)
        shape = (int(start[-1]), len(rate))
        csr: Any = scipy.sparse.csc_array((ones, token, indptr), shape=shape).tocsr()
        csr.sum_duplicates()
        return csr

    def valued(self, firings: Any) -> Any:
        """The firings with values of mean 1."""
        if self.planting.values == "exponential":
            firings.data = self.rng.standard_exponential(firings.nnz, dtype=np.float32)
        else:
            firings.data = self.log_normal(np.float32(LOG_SD), firings.nnz)
        return firings

    def log_normal(self, log_sd: np.ndarray | np.float32, count: int) -> np.ndarray:
        """`count` float32 values of mean 1."""
        normal = self.rng.standard_normal(count, dtype=np.float32)
        return np.exp(log_sd * normal - log_sd * log_sd / 2)

    def noisy_copy(self, latents: Latents, level: np.ndarray) -> Any:
        """Values with missed firings, noisy values, and spurious firings where they are silent."""
        x, rate = latents.values, latents.rate
        kept, log_sd = x.copy(), level.astype(np.float32)[x.indices]
        caught = self.rng.random(x.nnz, dtype=np.float32) >= log_sd
        kept.data = x.data * caught * self.log_normal(log_sd, x.nnz)
        kept.eliminate_zeros()
        spurious: Any = self.firings(rate * level[:, None].astype(np.float32))
        spurious = spurious - spurious.multiply(x != 0)
        return (kept + self.valued(spurious.tocsr())).tocsr()
