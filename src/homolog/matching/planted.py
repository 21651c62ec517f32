"""Two feature sets over one stream, some of whose features are the same: the truth to be found.

A latent l fires with a frequency p_l that differs between documents d, as a topic does:

    z_l(t) ~ Bernoulli(p_l g_l,d(t)),   g ~ Gamma(kappa) / kappa      mean 1, variance 1 / kappa
    x_l(t) = z_l(t) v,                  v log-normal or exponential   mean 1

A carries x_l; B carries a noisy copy of the shared latents, and other latents where A has its own.
With noise s a firing is missed with probability s, as many spurious ones come in the same kinds of
documents, and a value is multiplied by u, log-normal with log-sd s and mean 1:

    y_l(t) = z k v u + (1 - z) z' v',    k ~ Bernoulli(1 - s),   z' ~ Bernoulli(s p_l g_l,d(t))
    r(x_l, y_l) = (1 - s) / sqrt((1 - s) exp(s^2) + s)             for p_l -> 0

Then, on both sides, every column takes up `leak` times the values of a few others, as features in
superposition do, and what does not exceed `threshold` is cut, so that features stay sparse.  The
sources fire about as often as the column itself, so its own latent stays the strongest in it.  At
last the columns are multiplied by arbitrary scales and shuffled: nothing can be read from places,
sizes or order.

A leak is a true correlation between features that are not the same: a test of independence must
find it, a test of homology must not.  The same holds for `n_topics`, which lets all latents share a
few profiles of documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from homolog.dictionaries.seeds import generator
from homolog.errors import InputError

LARGEST_RATE = 0.5  # of a latent within one document
LEAK_REACH = 10  # leaks come from the latents nearest in frequency: this many ranks up or down
LOG_SD = 0.5  # of log-normal values
SHORTEST_DOCUMENT = 16
BLOCK_TOKENS = 1 << 14  # mixed at once, so that scattered writes stay in the cache

Values = Literal["log-normal", "exponential"]


@dataclass(frozen=True)
class Planting:
    """How features are planted.  Raises InputError for a value outside its range."""

    shared: float = 0.5
    """Share of the columns with a partner."""
    frequency: tuple[float, float] = (1e-4, 1e-1)
    """Range of p_l, log-uniform, at most 0.1."""
    noise: tuple[float, float] = (0.0, 0.6)
    """Range of s, uniform, below 1."""
    leak: float = 0.3
    """Weight of each leak, in units of the mean value of a firing."""
    n_leaks: int = 2
    """Leaks of each column."""
    threshold: float = 0.3
    """Least value that is not cut, in units of the mean value of a firing."""
    values: Values = "log-normal"
    document_tokens: float = 500.0
    """Mean length of a document; lengths are exponential."""
    topic_shape: float = 1.0
    """kappa, small for bursty latents."""
    n_topics: int = 0
    """0 gives every latent its own g; K > 0 lets all latents of both sides share K of them."""

    def __post_init__(self) -> None:
        low, high = self.frequency
        _check("shared", self.shared, 0 <= self.shared <= 1, "it is a share, from 0 to 1")
        _check("frequency", self.frequency, 0 < low <= high <= 0.1, "0 < low <= high <= 0.1")
        low, high = self.noise
        _check("noise", self.noise, 0 <= low <= high < 1, "0 <= low <= high < 1")


@dataclass(frozen=True, eq=False)
class PlantedMatches:
    """Features of two sides and the truth behind them.

    a, b: CSR float32 (tokens, features).  document: int32 (tokens,), not decreasing.  partner_a:
    int64 (features,), the column of `b` that carries the same latent, -1 where none does; partner_b
    the reverse.  frequency_a, frequency_b: float64, planted p_l of each column's own latent.
    noise_a, noise_b: float64, noise s of the copy, NaN without one.
    """

    a: Any
    b: Any
    document: Int[np.ndarray, "token"]
    partner_a: Int[np.ndarray, "features_a"]
    partner_b: Int[np.ndarray, "features_b"]
    frequency_a: Float[np.ndarray, "features_a"]
    frequency_b: Float[np.ndarray, "features_b"]
    noise_a: Float[np.ndarray, "features_a"]
    noise_b: Float[np.ndarray, "features_b"]


def plant_matches(
    n_tokens: int, n_features: int, *, seed: int, planting: Planting | None = None
) -> PlantedMatches:
    """Draw both sides, `n_features` columns each, over `n_tokens` tokens.

    planting: how (default: as `Planting` says).  Raises InputError for too few tokens or features.
    """
    planting = planting or Planting()
    least = 2 * LEAK_REACH + 1
    _check("n_tokens", n_tokens, n_tokens >= 1, "at least one token is needed")
    _check("n_features", n_features, n_features >= least, f"leaks need {least} columns")
    rng = generator(seed, "planted matches")
    start = _document_starts(n_tokens, planting.document_tokens, rng)
    n_shared = round(planting.shared * n_features)
    noise = rng.uniform(*planting.noise, n_shared)
    drawing = _Drawing(planting, start, rng)
    often, rate, common = drawing.latents(n_shared)
    side_a, side_b = (
        drawing.side(carried, often, n_features)
        for carried in (common, drawing.noisy_copy(common, rate, noise))
    )
    return PlantedMatches(
        a=side_a.columns,
        b=side_b.columns,
        document=np.repeat(np.arange(len(start) - 1, dtype=np.int32), np.diff(start)),
        partner_a=side_a.partners(side_b, n_shared),
        partner_b=side_b.partners(side_a, n_shared),
        frequency_a=side_a.frequency,
        frequency_b=side_b.frequency,
        noise_a=side_a.noise(noise),
        noise_b=side_b.noise(noise),
    )


def _check(field: str, value: Any, good: bool, requirement: str) -> None:
    if not good:
        raise InputError(field, value, requirement, "Give a value in that range.")


def _document_starts(
    n_tokens: int, mean: float, rng: np.random.Generator
) -> Int[np.ndarray, "starts"]:
    """First token of each document, and n_tokens at the end, int32."""
    most = int(n_tokens // SHORTEST_DOCUMENT) + 1
    beyond = rng.exponential(max(mean - SHORTEST_DOCUMENT, 0.0), most).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(SHORTEST_DOCUMENT + beyond)])
    return np.append(start[start < n_tokens], n_tokens).astype(np.int32)


@dataclass(frozen=True, eq=False)
class _Side:
    """Columns of one side; latent l, of which the first are the shared ones, lies at place[l]."""

    columns: Any
    frequency: np.ndarray
    place: np.ndarray

    def partners(self, other: _Side, n_shared: int) -> Int[np.ndarray, "features"]:
        """Column of the other side with the same latent, for each column."""
        partner = np.full(len(self.place), -1, dtype=np.int64)
        partner[self.place[:n_shared]] = other.place[:n_shared]
        return partner

    def noise(self, of_shared: np.ndarray) -> Float[np.ndarray, "features"]:
        """Noise of each column's copy, NaN without one, from that of the shared latents."""
        noise = np.full(len(self.place), np.nan)
        noise[self.place[: len(of_shared)]] = of_shared
        return noise


@dataclass(frozen=True, eq=False)
class _Drawing:
    """One stream of random numbers, from which everything is drawn in a fixed order."""

    planting: Planting
    start: np.ndarray
    rng: np.random.Generator

    @cached_property
    def topics(self) -> np.ndarray:
        return self.activity(self.planting.n_topics)

    def activity(self, rows: int) -> Float[np.ndarray, "rows docs"]:
        """g, float32: how much more than on average each latent fires in each document."""
        shape, n_documents = self.planting.topic_shape, len(self.start) - 1
        gamma = self.rng.standard_gamma(shape, (rows, n_documents), dtype=np.float32)
        return gamma / np.float32(shape)

    def latents(self, count: int) -> tuple[np.ndarray, np.ndarray, Any]:
        """Frequencies (count,), rates (count, documents), and values (tokens, count)."""
        topics, (low, high) = self.topics, self.planting.frequency
        often = np.exp(self.rng.uniform(np.log(low), np.log(high), count))
        if len(topics):
            own = topics[self.rng.integers(len(topics), size=count)]
        else:
            own = self.activity(count)
        rate = np.minimum(often[:, None].astype(np.float32) * own, np.float32(LARGEST_RATE))
        return often, rate, self.valued(self.firings(rate))

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

    def noisy_copy(self, x: Any, rate: np.ndarray, level: np.ndarray) -> Any:
        """`x` with missed firings, noisy values, and spurious firings where it is silent."""
        kept, log_sd = x.copy(), level.astype(np.float32)[x.indices]
        caught = self.rng.random(x.nnz, dtype=np.float32) >= log_sd
        kept.data = x.data * caught * self.log_normal(log_sd, x.nnz)
        kept.eliminate_zeros()
        spurious: Any = self.firings(rate * level[:, None].astype(np.float32))
        spurious = spurious - spurious.multiply(x != 0)
        return (kept + self.valued(spurious.tocsr())).tocsr()

    def side(self, carried: Any, often: np.ndarray, n_features: int) -> _Side:
        """`carried`, of these frequencies, and latents of the side's own, mixed and shuffled."""
        own_often, _, own = self.latents(n_features - len(often))
        both = np.concatenate([often, own_often])
        place = self.rng.permutation(n_features).astype(np.int32)
        scale = np.power(10.0, self.rng.uniform(-1, 1, n_features)).astype(np.float32)
        latent: Any = scipy.sparse.hstack([carried, own], format="csr")
        columns = _columns(latent, self.leaks(both), self.planting.threshold, place, scale)
        return _Side(columns, both[np.argsort(place)], place)

    def leaks(self, often: np.ndarray) -> Any:
        """Weights (latents, columns): 1 for a column's own latent, `leak` for a few others.

        Those are of about its frequency.
        """
        n, n_leaks = len(often), self.planting.n_leaks
        by_frequency = np.argsort(often)
        rank = np.argsort(by_frequency)
        low = np.clip(rank - LEAK_REACH, 0, n - 2 * LEAK_REACH - 1)
        order = np.argsort(self.rng.random((n, 2 * LEAK_REACH)), axis=1)
        drawn = order[:, :n_leaks] + low[:, None]
        source = by_frequency[drawn + (drawn >= rank[:, None])]  # a column is no source of its own
        weight = np.full(source.size, self.planting.leak, dtype=np.float32)
        column = np.repeat(np.arange(n, dtype=np.int32), n_leaks)
        place = (source.ravel().astype(np.int32), column)
        leaks = scipy.sparse.csr_array((weight, place), shape=(n, n))
        return leaks + scipy.sparse.eye_array(n, format="csr").astype(np.float32)


def _columns(x: Any, weight: Any, threshold: float, place: np.ndarray, scale: np.ndarray) -> Any:
    """Latents mixed and cut at `threshold`; column j times scale[j] is put at place[j]."""
    blocks = []
    for first in range(0, x.shape[0], BLOCK_TOKENS):
        mixed = x[first : first + BLOCK_TOKENS] @ weight
        mixed.data[mixed.data <= threshold] = 0
        mixed.eliminate_zeros()
        mixed.data *= scale[mixed.indices]
        mixed.indices = place[mixed.indices]
        mixed.has_sorted_indices = False
        blocks.append(mixed.tocsc().tocsr())  # sorts each row, in linear time
    return scipy.sparse.vstack(blocks, format="csr")
