"""Two feature sets over one token stream, some of whose features are the same: the truth that
matching must find.

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


@dataclass(frozen=True, eq=False)
class PlantedMatches:
    """Features of two sides and the truth behind them.

    a, b: CSR float32 (tokens, features).  document: int32 (tokens,), not decreasing.  partner_a:
    int64 (features,), the column of `b` that carries the same latent, -1 where none does; partner_b
    the reverse. frequency_a, frequency_b: float64, planted p_l of each column's own latent.
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
    n_tokens: int,
    n_features: int,
    *,
    seed: int,
    shared: float = 0.5,
    frequency: tuple[float, float] = (1e-4, 1e-1),
    noise: tuple[float, float] = (0.0, 0.6),
    leak: float = 0.3,
    n_leaks: int = 2,
    threshold: float = 0.3,
    values: Values = "log-normal",
    document_tokens: float = 500.0,
    topic_shape: float = 1.0,
    n_topics: int = 0,
) -> PlantedMatches:
    """Draw both sides, `n_features` columns each, over `n_tokens` tokens.

    shared: share of the columns with a partner.  frequency: range of p_l, log-uniform, at most
    0.1.  noise: range of s, uniform, below 1.  leak, n_leaks, threshold: weight and number of leaks
    a column, and the cut, in units of the mean value of a firing.  document_tokens: mean length,
    exponential.  topic_shape: kappa, small for bursty latents.
    n_topics: 0 gives every latent its own g; K > 0 lets all latents of both sides share K of them.

    Raises InputError for a value outside its range.
    """
    _check(n_tokens, n_features, shared, frequency, noise)
    rng = generator(seed, "planted matches")
    start = _document_starts(n_tokens, document_tokens, rng)
    n_shared = round(shared * n_features)
    noise_of = np.concatenate(
        [rng.uniform(*noise, n_shared), np.full(n_features - n_shared, np.nan)]
    )
    topics = _activity(n_topics, start, topic_shape, rng)

    def latents(count: int) -> tuple[np.ndarray, np.ndarray, Any]:
        """Frequencies (count,), rates (count, documents), firings with their values (tokens,
        count).
        """
        often = np.exp(rng.uniform(np.log(frequency[0]), np.log(frequency[1]), count))
        own = (
            topics[rng.integers(n_topics, size=count)]
            if n_topics
            else _activity(count, start, topic_shape, rng)
        )
        rate = np.minimum(often[:, None].astype(np.float32) * own, np.float32(LARGEST_RATE))
        return often, rate, _valued(_firings(rate, start, rng), values, rng)

    often, rate, common = latents(n_shared)
    columns, frequencies, places = [], [], []
    for carried in (common, _copy(common, rate, noise_of[:n_shared], start, values, rng)):
        own_often, _, own = latents(n_features - n_shared)
        both = np.concatenate([often, own_often])
        place = rng.permutation(n_features).astype(np.int32)  # latent -> column
        scale = np.power(10.0, rng.uniform(-1, 1, n_features)).astype(np.float32)
        latent: Any = scipy.sparse.hstack([carried, own], format="csr")
        columns.append(_columns(latent, _leaks(both, leak, n_leaks, rng), threshold, place, scale))
        frequencies.append(both[np.argsort(place)])
        places.append(place)
    (place_a, place_b), n_documents = places, len(start) - 1
    return PlantedMatches(
        a=columns[0],
        b=columns[1],
        document=np.repeat(np.arange(n_documents, dtype=np.int32), np.diff(start)),
        partner_a=_partners(place_a, place_b, n_shared),
        partner_b=_partners(place_b, place_a, n_shared),
        frequency_a=frequencies[0],
        frequency_b=frequencies[1],
        noise_a=noise_of[np.argsort(place_a)],
        noise_b=noise_of[np.argsort(place_b)],
    )


def _partners(place: np.ndarray, other: np.ndarray, n_shared: int) -> Int[np.ndarray, "features"]:
    """Column of the other side with the same latent, for each column; the first latents are the
    shared ones.
    """
    partner = np.full(len(place), -1, dtype=np.int64)
    partner[place[:n_shared]] = other[:n_shared]
    return partner


def _check(
    n_tokens: int,
    n_features: int,
    shared: float,
    frequency: tuple[float, float],
    noise: tuple[float, float],
) -> None:
    for field, value, good, requirement in (
        ("n_tokens", n_tokens, n_tokens >= 1, "at least one token is needed"),
        (
            "n_features",
            n_features,
            n_features >= 2 * LEAK_REACH + 1,
            f"leaks need {2 * LEAK_REACH + 1} columns",
        ),
        ("shared", shared, 0 <= shared <= 1, "it is a share, from 0 to 1"),
        ("frequency", frequency, 0 < frequency[0] <= frequency[1] <= 0.1, "0 < low <= high <= 0.1"),
        ("noise", noise, 0 <= noise[0] <= noise[1] < 1, "0 <= low <= high < 1"),
    ):
        if not good:
            raise InputError(field, value, requirement, "Give a value in that range.")


def _document_starts(
    n_tokens: int, mean: float, rng: np.random.Generator
) -> Int[np.ndarray, "starts"]:
    """First token of each document, and n_tokens at the end, int32."""
    most = int(n_tokens // SHORTEST_DOCUMENT) + 1
    length = SHORTEST_DOCUMENT + rng.exponential(max(mean - SHORTEST_DOCUMENT, 0.0), most).astype(
        np.int64
    )
    start = np.concatenate([[0], np.cumsum(length)])
    return np.append(start[start < n_tokens], n_tokens).astype(np.int32)


def _activity(
    rows: int, start: np.ndarray, shape: float, rng: np.random.Generator
) -> Float[np.ndarray, "rows docs"]:
    """g, float32: how much more than on average each latent fires in each document."""
    return rng.standard_gamma(shape, (rows, len(start) - 1), dtype=np.float32) / np.float32(shape)


def _firings(rate: np.ndarray, start: np.ndarray, rng: np.random.Generator) -> Any:
    """Independent firings (tokens, latents), each token with the `rate` (latents, documents) of its
    document.

    Poisson points hit a token at least once with probability 1 - exp(-intensity), independently: so
    an intensity of -log(1 - rate) gives Bernoulli(rate) exactly, at the cost of the firings alone.
    """
    length = np.diff(start)
    count = rng.poisson(-np.log1p(-rate.astype(np.float64)) * length)
    cell = np.repeat(np.arange(count.size, dtype=np.int32), count.ravel()) % np.int32(len(length))
    token = (rng.random(len(cell)) * length[cell]).astype(np.int32) + start[cell]
    indptr = np.concatenate([[0], np.cumsum(count.sum(axis=1))]).astype(np.int32)
    ones = np.ones(len(token), dtype=np.float32)
    csr: Any = scipy.sparse.csc_array(
        (ones, token, indptr), shape=(int(start[-1]), len(rate))
    ).tocsr()
    csr.sum_duplicates()
    return csr


def _valued(firings: Any, values: Values, rng: np.random.Generator) -> Any:
    """The firings with values of mean 1."""
    if values == "exponential":
        firings.data = rng.standard_exponential(firings.nnz, dtype=np.float32)
    else:
        firings.data = _log_normal(np.float32(LOG_SD), firings.nnz, rng)
    return firings


def _log_normal(
    log_sd: np.ndarray | np.float32, count: int, rng: np.random.Generator
) -> np.ndarray:
    """`count` float32 values of mean 1."""
    return np.exp(log_sd * rng.standard_normal(count, dtype=np.float32) - log_sd * log_sd / 2)


def _copy(
    x: Any,
    rate: np.ndarray,
    level: np.ndarray,
    start: np.ndarray,
    values: Values,
    rng: np.random.Generator,
) -> Any:
    """The noisy copy of `x`: missed firings, noisy values, spurious firings where `x` is silent."""
    kept, log_sd = x.copy(), level.astype(np.float32)[x.indices]
    kept.data = (
        x.data * (rng.random(x.nnz, dtype=np.float32) >= log_sd) * _log_normal(log_sd, x.nnz, rng)
    )
    kept.eliminate_zeros()
    spurious: Any = _firings(rate * level[:, None].astype(np.float32), start, rng)
    spurious = spurious - spurious.multiply(x != 0)
    return (kept + _valued(spurious.tocsr(), values, rng)).tocsr()


def _leaks(often: np.ndarray, leak: float, n_leaks: int, rng: np.random.Generator) -> Any:
    """Weights (latents, columns): 1 for a column's own latent, `leak` for `n_leaks` others of about
    its frequency.
    """
    n = len(often)
    by_frequency = np.argsort(often)
    rank = np.argsort(by_frequency)
    low = np.clip(rank - LEAK_REACH, 0, n - 2 * LEAK_REACH - 1)
    drawn = np.argsort(rng.random((n, 2 * LEAK_REACH)), axis=1)[:, :n_leaks] + low[:, None]
    source = by_frequency[drawn + (drawn >= rank[:, None])]  # a column is no source of its own
    weight = np.full(source.size, leak, dtype=np.float32)
    place = (source.ravel().astype(np.int32), np.repeat(np.arange(n, dtype=np.int32), n_leaks))
    leaks = scipy.sparse.csr_array((weight, place), shape=(n, n))
    return leaks + scipy.sparse.eye_array(n, format="csr").astype(np.float32)


def _columns(x: Any, weight: Any, threshold: float, place: np.ndarray, scale: np.ndarray) -> Any:
    """Latents mixed and cut at `threshold`; column j multiplied by `scale`[j] and put at
    `place`[j].
    """
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
