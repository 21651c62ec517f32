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
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from homolog.dictionaries.seeds import generator
from homolog.matching.planted_latents import Drawing, Latents, activity, document_starts
from homolog.matching.planted_tokens import TokenStream
from homolog.matching.planting import Planting, checked

BLOCK_TOKENS = 1 << 14  # mixed at once, so that scattered writes stay in the cache


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
    checked("n_tokens", n_tokens, n_tokens >= 1, "at least one token is needed")
    checked("n_features", n_features, n_features >= least, f"leaks need {least} columns")
    rng = generator(seed, "planted matches")
    start = document_starts(n_tokens, planting.document_tokens, rng)
    n_shared = round(planting.shared * n_features)
    noise = rng.uniform(*planting.noise, n_shared)
    topics = activity(planting, planting.n_topics, len(start) - 1, rng)
    drawing = Drawing(planting, start, topics, rng)
    apart = Drawing(planting, start, topics, generator(seed, "planted controls"))
    stream = TokenStream.draw(n_tokens, planting.vocabulary, apart.rng)
    shared = drawing.latents(n_shared, "shared")
    copies = drawing.noisy_copy(shared, noise)
    controlled, known = apart.controlled(stream, n_features - n_shared)
    level = apart.rng.uniform(*planting.noise, len(controlled.often))
    carried = Latents.joined([shared, controlled])
    noise = np.concatenate([noise, level])
    copies = scipy.sparse.hstack([copies, apart.noisy_copy(controlled, level)], format="csr")
    side_a = _side(drawing, carried, carried.values, n_features)
    side_b = _side(drawing, carried, copies, n_features)
    untrained_a, untrained_b = (
        _side(apart, known, apart.noisy_copy(known, noisier), n_features)
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


def _side(drawing: Drawing, carried: Latents, values: Any, n_features: int) -> _Side:
    """`values` of what is carried, and latents of the side's own, mixed and shuffled."""
    own = drawing.latents(n_features - len(carried.often))
    both = np.concatenate([carried.often, own.often])
    place = drawing.rng.permutation(n_features).astype(np.int32)
    scale = np.power(10.0, drawing.rng.uniform(-1, 1, n_features)).astype(np.float32)
    latent: Any = scipy.sparse.hstack([values, own.values], format="csr")
    columns = _columns(latent, _leaks(drawing, both), drawing.planting.threshold, place, scale)
    return _Side(columns, both[np.argsort(place)], place)


def _leaks(drawing: Drawing, often: np.ndarray) -> Any:
    """Weights (latents, columns): 1 for a column's own latent, `leak` for a few others.

    Those are of about its frequency, as far as `leak_reach` says.
    """
    n, n_leaks, reach = len(often), drawing.planting.n_leaks, drawing.planting.leak_reach
    near = n - 1 if reach is None else 2 * reach
    by_frequency = np.argsort(often)
    rank = np.argsort(by_frequency)
    low = np.clip(rank - (reach or 0), 0, n - near - 1)
    order = np.argsort(drawing.rng.random((n, near)), axis=1)
    drawn = order[:, :n_leaks] + low[:, None]
    source = by_frequency[drawn + (drawn >= rank[:, None])]  # a column is no source of its own
    weight = np.full(source.size, drawing.planting.leak, dtype=np.float32)
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
