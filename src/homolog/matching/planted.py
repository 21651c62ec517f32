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

Neither is a latent a homolog that both sides have for a reason which is not learned.  Such latents
are planted with a copy in B as the shared ones are, beside controls that know them:

    token, token set    functions of the current token (`planted_tokens` has the stream)
    untrained           latents that an untrained stand-in of either side carries as well: that of B
                        a copy of its own, with the same noise s as B's but independent of it; that
                        of A, as A, the latent itself
    mixture             the sum of a token set and of a latent that the stand-ins carry as well

Stand-ins have latents of their own besides, and superposition as A and B have it.  All that is said
in this part is drawn apart, so that A and B are the same without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from homolog.dictionaries.seeds import generator
from homolog.errors import InputError
from homolog.matching.planted_tokens import TokenStream

LARGEST_RATE = 0.5  # of a latent within one document
MOST_NOISE = 0.95  # of a stand-in's copy
LEAK_REACH = 10  # leaks come from the latents nearest in frequency: this many ranks up or down
CONTROLLED = ("token", "token set", "untrained", "mixture")
KINDS = ("shared", *CONTROLLED, "own")
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
    leak_reach: int | None = LEAK_REACH
    """Ranks of frequency, up or down, from which leaks come; None: any, however rare the column."""
    by_token: float = 0.0
    """Share of the columns without a partner that are functions of the current token."""
    in_untrained: float = 0.0
    """Share of the columns without a partner that the untrained stand-ins have as well."""
    mixed: float = 0.0
    """Share of the columns without a partner that are mixtures of both."""
    vocabulary: int = 10_000
    """Tokens that there are."""
    untrained_noise: float = 0.0
    """How much noisier than what it stands for a stand-in is: added to its s, up to 0.95."""

    def __post_init__(self) -> None:
        low, high = self.frequency
        _check("shared", self.shared, 0 <= self.shared <= 1, "it is a share, from 0 to 1")
        _check("frequency", self.frequency, 0 < low <= high <= 0.1, "0 < low <= high <= 0.1")
        low, high = self.noise
        _check("noise", self.noise, 0 <= low <= high < 1, "0 <= low <= high < 1")
        _check("untrained_noise", self.untrained_noise, 0 <= self.untrained_noise < 1, "0 to 1")
        _check("vocabulary", self.vocabulary, self.vocabulary >= 10, "at least 10 tokens")
        parts = (self.by_token, self.in_untrained, self.mixed)
        _check(
            "by_token, in_untrained, mixed",
            parts,
            min(parts) >= 0 and sum(parts) <= 1,
            "they are shares of the columns without a partner, together at most 1",
        )


@dataclass(frozen=True, eq=False)
class PlantedMatches:
    """Features of two sides and the truth behind them.

    a, b: CSR float32 (tokens, features).  untrained_a, untrained_b: the same, of what stands in for
    each.  document: int32 (tokens,), not decreasing.  token: int32 (tokens,), ids.  partner_a:
    int64 (features,), the column of `b` that is a homolog, -1 where none is, though it may carry
    the same latent; partner_b the reverse.  frequency_a, frequency_b: float64, planted p_l of each
    column's own latent.  noise_a, noise_b: float64, noise s of the copy, NaN without one.  kind_a,
    kind_b: which of `KINDS` each column is.  latent: for a, b, untrained_a and untrained_b, int64
    (features,), the number of each column's latent, the same in all that carry it; -1 for a
    side's own.
    """

    a: Any
    b: Any
    untrained_a: Any
    untrained_b: Any
    document: Int[np.ndarray, "token"]
    token: Int[np.ndarray, "token"]
    partner_a: Int[np.ndarray, "features_a"]
    partner_b: Int[np.ndarray, "features_b"]
    frequency_a: Float[np.ndarray, "features_a"]
    frequency_b: Float[np.ndarray, "features_b"]
    noise_a: Float[np.ndarray, "features_a"]
    noise_b: Float[np.ndarray, "features_b"]
    kind_a: np.ndarray
    kind_b: np.ndarray
    latent: Mapping[str, Int[np.ndarray, "features"]]


def plant_matches(
    n_tokens: int, n_features: int, *, seed: int, planting: Planting | None = None
) -> PlantedMatches:
    """Draw both sides, `n_features` columns each, over `n_tokens` tokens.

    planting: how (default: as `Planting` says).  Raises InputError for too few tokens or features.
    """
    planting = planting or Planting()
    least = 1 + (planting.n_leaks if planting.leak_reach is None else 2 * planting.leak_reach)
    _check("n_tokens", n_tokens, n_tokens >= 1, "at least one token is needed")
    _check("n_features", n_features, n_features >= least, f"leaks need {least} columns")
    rng = generator(seed, "planted matches")
    start = _document_starts(n_tokens, planting.document_tokens, rng)
    n_shared = round(planting.shared * n_features)
    noise = rng.uniform(*planting.noise, n_shared)
    topics = _activity(planting, planting.n_topics, len(start) - 1, rng)
    drawing = _Drawing(planting, start, topics, rng)
    apart = _Drawing(planting, start, topics, generator(seed, "planted controls"))
    stream = TokenStream.draw(n_tokens, planting.vocabulary, apart.rng)
    shared = drawing.latents(n_shared, "shared")
    copies = drawing.noisy_copy(shared, noise)
    controlled, known = apart.controlled(stream, n_features - n_shared)
    level = apart.rng.uniform(*planting.noise, len(controlled.often))
    carried = _Latents.joined([shared, controlled])
    noise = np.concatenate([noise, level])
    copies = scipy.sparse.hstack([copies, apart.noisy_copy(controlled, level)], format="csr")
    side_a = drawing.side(carried, carried.values, n_features)
    side_b = drawing.side(carried, copies, n_features)
    untrained_a, untrained_b = (
        apart.side(known, apart.noisy_copy(known, noisier), n_features)
        for noisier in apart.noise_of_untrained(level[len(level) - len(known.often) :])
    )
    number = np.arange(len(noise))
    number_known = number[len(noise) - len(known.often) :]
    return PlantedMatches(
        a=side_a.columns,
        b=side_b.columns,
        untrained_a=untrained_a.columns,
        untrained_b=untrained_b.columns,
        document=np.repeat(np.arange(len(start) - 1, dtype=np.int32), np.diff(start)),
        token=stream.token,
        partner_a=side_a.placed(side_b.place[:n_shared].astype(np.int64), -1),
        partner_b=side_b.placed(side_a.place[:n_shared].astype(np.int64), -1),
        frequency_a=side_a.frequency,
        frequency_b=side_b.frequency,
        noise_a=side_a.placed(noise, np.nan),
        noise_b=side_b.placed(noise, np.nan),
        kind_a=side_a.placed(carried.kind, "own"),
        kind_b=side_b.placed(carried.kind, "own"),
        latent={
            "a": side_a.placed(number, -1),
            "b": side_b.placed(number, -1),
            "untrained_a": untrained_a.placed(number_known, -1),
            "untrained_b": untrained_b.placed(number_known, -1),
        },
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


def _activity(
    planting: Planting, rows: int, n_documents: int, rng: np.random.Generator
) -> Float[np.ndarray, "rows docs"]:
    """g, float32: how much more than on average each latent fires in each document."""
    shape = planting.topic_shape
    gamma = rng.standard_gamma(shape, (rows, n_documents), dtype=np.float32)
    return gamma / np.float32(shape)


@dataclass(frozen=True, eq=False)
class _Latents:
    """Frequencies (count,), rates float32 (count, documents), CSR values, kinds (count,)."""

    often: np.ndarray
    rate: np.ndarray
    values: Any
    kind: np.ndarray

    @classmethod
    def joined(cls, parts: list[_Latents]) -> _Latents:
        return cls(
            np.concatenate([part.often for part in parts]),
            np.concatenate([part.rate for part in parts]),
            scipy.sparse.hstack([part.values for part in parts], format="csr"),
            np.concatenate([part.kind for part in parts]),
        )

    def plus(self, other: _Latents, kind: str) -> _Latents:
        """Each with its own of the other: the sum of both."""
        often, rate = self.often + other.often, self.rate + other.rate
        return _Latents(often, rate, (self.values + other.values).tocsr(), _kinds(kind, len(often)))


def _kinds(kind: str, count: int) -> np.ndarray:
    return np.full(count, kind, dtype=f"<U{max(map(len, KINDS))}")


@dataclass(frozen=True, eq=False)
class _Side:
    """Columns of one side; latent l, of which the first are the carried ones, lies at place[l]."""

    columns: Any
    frequency: np.ndarray
    place: np.ndarray

    def placed(self, of_first: np.ndarray, otherwise: Any) -> np.ndarray:
        """What is given of the first latents, for each column; for all others `otherwise`."""
        of_columns = np.full(len(self.place), otherwise, dtype=of_first.dtype)
        of_columns[self.place[: len(of_first)]] = of_first
        return of_columns


@dataclass(frozen=True, eq=False)
class _Drawing:
    """One stream of random numbers, from which everything is drawn in a fixed order."""

    planting: Planting
    start: np.ndarray
    topics: np.ndarray
    rng: np.random.Generator

    def latents(self, count: int, kind: str = "own") -> _Latents:
        """Latents that fire by documents."""
        topics, (low, high) = self.topics, self.planting.frequency
        often = np.exp(self.rng.uniform(np.log(low), np.log(high), count))
        if len(topics):
            own = topics[self.rng.integers(len(topics), size=count)]
        else:
            own = _activity(self.planting, count, len(self.start) - 1, self.rng)
        rate = np.minimum(often[:, None].astype(np.float32) * own, np.float32(LARGEST_RATE))
        return _Latents(often, rate, self.valued(self.firings(rate)), _kinds(kind, count))

    def controlled(self, stream: TokenStream, n_columns: int) -> tuple[_Latents, _Latents]:
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
            _Latents.joined([single, several, untrained, mixed]),
            _Latents.joined([untrained, part]),
        )

    def by_token(self, stream: TokenStream, sets: list[np.ndarray], kind: str) -> _Latents:
        """Functions of the current token, as likely in every document."""
        often, values = stream.latents(sets, self.rng)
        rate = np.repeat(often[:, None].astype(np.float32), len(self.start) - 1, axis=1)
        return _Latents(often, rate, values, _kinds(kind, len(sets)))

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

    def noisy_copy(self, latents: _Latents, level: np.ndarray) -> Any:
        """Values with missed firings, noisy values, and spurious firings where they are silent."""
        x, rate = latents.values, latents.rate
        kept, log_sd = x.copy(), level.astype(np.float32)[x.indices]
        caught = self.rng.random(x.nnz, dtype=np.float32) >= log_sd
        kept.data = x.data * caught * self.log_normal(log_sd, x.nnz)
        kept.eliminate_zeros()
        spurious: Any = self.firings(rate * level[:, None].astype(np.float32))
        spurious = spurious - spurious.multiply(x != 0)
        return (kept + self.valued(spurious.tocsr())).tocsr()

    def side(self, carried: _Latents, values: Any, n_features: int) -> _Side:
        """`values` of what is carried, and latents of the side's own, mixed and shuffled."""
        own = self.latents(n_features - len(carried.often))
        both = np.concatenate([carried.often, own.often])
        place = self.rng.permutation(n_features).astype(np.int32)
        scale = np.power(10.0, self.rng.uniform(-1, 1, n_features)).astype(np.float32)
        latent: Any = scipy.sparse.hstack([values, own.values], format="csr")
        columns = _columns(latent, self.leaks(both), self.planting.threshold, place, scale)
        return _Side(columns, both[np.argsort(place)], place)

    def leaks(self, often: np.ndarray) -> Any:
        """Weights (latents, columns): 1 for a column's own latent, `leak` for a few others.

        Those are of about its frequency, as far as `leak_reach` says.
        """
        n, n_leaks, reach = len(often), self.planting.n_leaks, self.planting.leak_reach
        near = n - 1 if reach is None else 2 * reach
        by_frequency = np.argsort(often)
        rank = np.argsort(by_frequency)
        low = np.clip(rank - (reach or 0), 0, n - near - 1)
        order = np.argsort(self.rng.random((n, near)), axis=1)
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
