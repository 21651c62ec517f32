"""The null of the maximum: how large a best r is by chance, for a feature that fires as often.

The best of a million correlations is large even where nothing is shared, most of all for rare
features.  The null keeps the values of every feature and its runs within a document, and breaks the
pairing of texts: row t of model A meets row pi_s(t) of model B,

    null_is = max over all features j of B of Pearson(x_i(t), y_j(pi_s(t))),   s = 1 ... draws.

`document_exchanges`: pi maps whole documents to other documents, of about the same length, all
windows of one to one other.  Documents are what varies by chance: a feature of a topic fires
through a document, in all its windows.

A circular shift of the stream, pi(t) = t - offset [Theiler 1992; Harris 2020], would keep the
autocorrelation of neighbouring rows, but documents would meet pieces of several others, the more so
when their windows are dealt out in random order, and for features that fire throughout documents
the null would be too low: independent features that fire on 30 % of the tokens of some documents
(300 of 100 tokens on average, windows of 32 dealt out) have p <= 0.05 in 54 % of cases under shifts
and 6 % under exchanges; those that fire by the token 5 % under both.

A few draws a feature are enough.  Those of features with similar firing frequency are pooled: a
pool is as narrow in log frequency as `POOL_DRAWS` draws allow, and its draws are first divided by
the median null at their own frequency (log-log line through the medians of the pools), lest its
rarest features fill its upper tail.  Within a pool of n draws

    p = (1 + #{draws >= r}) / (1 + n)  [Phipson & Smyth 2010]

with a straight line between neighbouring draws (so never below that fraction, and above it by at
most 1 / (1 + n)), and between the centres of two pools their quantiles are interpolated in log
frequency, so p has no jumps.

A pool resolves 1 / (1 + n), and Benjamini-Hochberg at 1 % may need less.  Beyond the largest of its
draws the tail is a generalised Pareto distribution of the excess over a high draw u [Pickands 1975;
Knijnenburg 2009]

    P(r > u + y | r > u) = (1 + xi y / sigma)^(-1 / xi),   exp(-y / sigma) for xi = 0,

by probability-weighted moments [Hosking & Wallis 1987].  Two rules keep it on the safe side: a
shape xi < 0, which would make some r impossible, becomes 0; and of the draws and the fit the larger
quantile holds.  p is never taken below a tenth of 1 / (1 + n), n being the draws of the smallest
pool.

    q_(k) = min over l >= k of p_(l) m / l          [Benjamini & Hochberg 1995]

over the m defined features.  The pool is matched in frequency alone: within it, a feature that
fires in long runs has a higher null than one that does not, so p is right on average over features
of one frequency, not for each.

Sources: Theiler et al., Physica D 58 (1992); Harris, arXiv 2012.06862 (2020); Phipson & Smyth,
Stat. Appl. Genet. Mol. Biol. 9 (2010); Pickands, Ann. Stat. 3 (1975); Knijnenburg et al.,
Bioinformatics 25 (2009), i161; Hosking & Wallis, Technometrics 29 (1987); Benjamini & Hochberg, J.
R. Stat. Soc. B 57 (1995).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from homolog.errors import InputError

BLOCK = 8  # documents of about one length that are exchanged among each other, at least
POOL_DRAWS = 1000  # least draws of a pool, where there are as many
# frequencies of a pool lie at least this factor apart, where there are more draws than needed
POOL_WIDTH = 1.09
TAIL_DRAWS = 250  # draws above u at most, and a tenth of the pool at most
LEAST_TAIL = 50  # with fewer draws above u no tail is fitted
BEYOND = 0.1  # p goes down to this share of what the smallest pool resolves
LEVELS = 1024  # levels of p at which the quantiles of a pool are kept

_Between = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def document_exchanges(
    document: Int[np.ndarray, "token"], n_exchanges: int, seed: int
) -> Int[np.ndarray, "exchanges token"]:
    """Orders of the rows of B, int64 (exchanges, tokens): row t of A meets row order[s, t] of B.

    document: (tokens,), the document of each row; its rows may lie anywhere.  Documents in order of
    length are cut into blocks of at least `BLOCK`, and in each block every document meets another,
    a different one in every exchange; token u of the one meets token u of the other.  Where one is
    longer, its last tokens meet those that others have left, in stream order, so that each row is
    used once.

    Raises InputError when there are not more documents than exchanges.
    """
    _, number, size = np.unique(document, return_inverse=True, return_counts=True)
    n_documents, n_tokens = len(size), len(document)
    if not 1 <= n_exchanges < n_documents:
        meets = f"a document meets a different one of the {n_documents} in every exchange"
        needed = "at least one exchange and more documents than exchanges are needed"
        remedy = "Give a text of more documents, or ask for fewer."
        raise InputError("n_exchanges", n_exchanges, f"{meets}, so {needed}", remedy)
    generator = np.random.default_rng(seed)
    row = np.argsort(number, kind="stable")  # by document, in stream order
    start = np.cumsum(size) - size
    place = np.empty(n_tokens, dtype=np.int64)  # of each row in its document
    place[row] = np.arange(n_tokens) - np.repeat(start, size)
    by_size = np.lexsort([generator.random(n_documents), size])
    blocks = np.array_split(by_size, max(1, n_documents // max(BLOCK, n_exchanges + 1)))
    turns = [
        generator.choice(np.arange(1, len(block)), n_exchanges, replace=False) for block in blocks
    ]
    orders = np.empty((n_exchanges, n_tokens), dtype=np.int64)
    for exchange, order in enumerate(orders):
        met, meets = np.empty(n_documents, dtype=np.int64), np.empty(n_documents, dtype=np.int64)
        for block, turn in zip(blocks, turns, strict=True):
            met[block] = np.roll(block, turn[exchange])
        meets[met] = np.arange(n_documents)
        fits = place < size[met][number]
        order[fits] = row[(start[met][number] + place)[fits]]
        order[~fits] = np.flatnonzero(place >= size[meets][number])
    return orders


@dataclass(frozen=True)
class Calibration:
    """What the null says of each feature, all (features,); NaN where r is.

    p: chance of so high a best r.  q: Benjamini-Hochberg.  null_r: `quantile` of the null at its
    frequency.
    excess: r - null_r.  threshold: least r at its frequency that is called (q <= fdr); +inf where
    none is.
    """

    p: Float[np.ndarray, "features"]
    q: Float[np.ndarray, "features"]
    null_r: Float[np.ndarray, "features"]
    excess: Float[np.ndarray, "features"]
    threshold: Float[np.ndarray, "features"]


def calibrate(
    r: Float[np.ndarray, "features"],
    n_active: Int[np.ndarray, "features"],
    null: Float[np.ndarray, "rows draws"],
    *,
    n_tokens: int,
    fdr: float = 0.01,
    quantile: float = 0.95,
) -> Calibration:
    """p, q, the quantile of the null and the threshold of each feature.

    All layers of one direction go together.  r: best correlation, NaN where undefined.  n_active:
    tokens on which the feature fires, of n_tokens.  null: best correlation under each shift or
    exchange; NaN is left out.  p and q are float64, the others float32, threshold rounded up, so
    that q <= fdr just where r >= threshold.
    Raises InputError for a null without draws, other numbers of features, or levels outside (0, 1).
    """
    for name, level in (("fdr", fdr), ("quantile", quantile)):
        if not 0 < level < 1:
            requirement = "it is a share between 0 and 1"
            raise InputError(name, level, requirement, "Give 0.01, or 0.95 for the quantile.")
    if null.shape[1] == 0 or not len(r) == len(n_active) == len(null):
        requirement = f"one row for each of the {len(r)} features and at least one draw are needed"
        remedy = "Match under exchanges first."
        raise InputError("null of the maximum", null.shape, requirement, remedy)
    shape = r.shape
    p, q, null_r, threshold = (np.full(shape, np.nan) for _ in range(4))
    defined = np.flatnonzero(~np.isnan(r))
    if len(defined):
        log_frequency = np.log(np.maximum(n_active[defined], 1) / n_tokens)
        pools = _Pools.of(log_frequency, null[defined])
        p[defined] = pools.p_of(r[defined].astype(np.float64), log_frequency)
        q[defined] = benjamini_hochberg(p[defined])
        called = np.count_nonzero(q[defined] <= fdr)
        threshold[defined] = pools.least_r(fdr * max(1, called) / len(defined), log_frequency)
        null_r[defined] = pools.least_r(1 - quantile, log_frequency)
    return Calibration(
        p=p,
        q=q,
        null_r=null_r.astype(np.float32),
        excess=(r - null_r).astype(np.float32),
        threshold=rounded_up(threshold),
    )


def least_p(n_draws: int) -> float:
    """The least p that a pool of so many draws can give."""
    return (BEYOND if n_draws // 10 >= LEAST_TAIL else 1) / (1 + n_draws)


def rounded_up(x: np.ndarray) -> np.ndarray:
    """The least float32 not below each x."""
    rounded = x.astype(np.float32)
    return np.where(rounded < x, np.nextafter(rounded, np.float32(np.inf)), rounded)


def benjamini_hochberg(p: Float[np.ndarray, "features"]) -> Float[np.ndarray, "features"]:
    """Benjamini-Hochberg q of each p: the least false discovery rate at which it is called.

    scipy.stats.false_discovery_control rounds the last bit otherwise, and tables keep their bytes.
    """
    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty(len(p))
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return q


@dataclass(frozen=True)
class _Pools:
    """Null quantiles by log frequency, as multiples of the median null there.

    They fall as the level p rises.
    """

    centre: np.ndarray  # (pools,) mean log frequency, ascending
    log_median: np.ndarray  # (pools,) of the null, at the centres
    level: np.ndarray  # (levels,) of p, ascending; the last is 1
    quantiles: np.ndarray  # (pools, levels)

    @classmethod
    def of(cls, log_frequency: np.ndarray, null: np.ndarray) -> _Pools:
        feature, shift = np.nonzero(~np.isnan(null))
        if not len(feature):
            requirement = "no draw has a defined correlation"
            raise InputError("null of the maximum", "NaN", requirement, "Match again.")
        order = np.argsort(log_frequency[feature], kind="stable")
        at = log_frequency[feature[order]]
        draws = null[feature[order], shift[order]].astype(np.float64)
        edges = _edges(at)
        centre = np.array([part.mean() for part in np.split(at, edges)])
        median = np.array([np.median(part) for part in np.split(draws, edges)])
        log_median = np.log(median) if (median > 0).all() else np.zeros(len(median))
        parts = np.split(draws / np.exp(np.interp(at, centre, log_median)), edges)
        least = min(len(part) for part in parts)
        level = np.union1d(
            np.geomspace(least_p(least), 0.05, LEVELS), np.linspace(0.05, 1, LEVELS // 4)
        )
        quantiles = np.array([_quantiles(np.sort(part)[::-1], level) for part in parts])
        return cls(centre, log_median, level, quantiles)

    def _between(self, log_frequency: np.ndarray) -> _Between:
        """Pools below and above each frequency, the weight of the one above, the median null."""
        above = np.clip(np.searchsorted(self.centre, log_frequency), 0, len(self.centre) - 1)
        below = np.maximum(np.where(self.centre[above] <= log_frequency, above, above - 1), 0)
        gap = self.centre[above] - self.centre[below]
        weight = np.where(
            gap > 0, (log_frequency - self.centre[below]) / np.where(gap > 0, gap, 1), 0.0
        )
        return below, above, weight, np.exp(np.interp(log_frequency, self.centre, self.log_median))

    def _at(self, place: np.ndarray | int, between: _Between) -> np.ndarray:
        below, above, weight, median = between
        low, high = self.quantiles[below, place], self.quantiles[above, place]
        return median * (low + weight * (high - low))

    def p_of(self, r: np.ndarray, log_frequency: np.ndarray) -> np.ndarray:
        """p of each r: the last level whose quantile reaches r, then straight to the next."""
        between = self._between(log_frequency)
        inside, outside = np.full(len(r), -1), np.full(len(r), len(self.level))
        for _ in range(len(self.level).bit_length()):
            middle = (inside + outside) // 2
            open_still = outside - inside > 1
            reaches = self._at(np.clip(middle, 0, len(self.level) - 1), between) >= r
            inside = np.where(open_still & reaches, middle, inside)
            outside = np.where(open_still & ~reaches, middle, outside)
        last = len(self.level) - 1
        here, following = np.clip(inside, 0, last), np.clip(outside, 0, last)
        high, low = self._at(here, between), self._at(following, between)
        step = np.where(high > low, (high - r) / np.where(high > low, high - low, 1), 0)
        return self.level[here] + np.clip(step, 0, 1) * (self.level[following] - self.level[here])

    def least_r(self, p: float, log_frequency: np.ndarray) -> np.ndarray:
        """Least r of each frequency whose p is at most `p`, the inverse of `p_of`; else +inf."""
        if p < self.level[0]:
            return np.full(len(log_frequency), np.inf)
        here = int(np.searchsorted(self.level, p, side="right")) - 1
        following = min(here + 1, len(self.level) - 1)
        between = self._between(log_frequency)
        high, low = self._at(here, between), self._at(following, between)
        span = self.level[following] - self.level[here]
        r = high - (p - self.level[here]) / (span if span > 0 else 1.0) * (high - low)
        # of equal draws only an r above them has that p
        return np.where(high > low, r, np.nextafter(high, np.inf))


def _edges(log_frequency: np.ndarray) -> list[int]:
    """Where each pool but the first begins among draws in order of frequency.

    Equal frequencies stay together.
    """
    edges = [0]
    for start in np.flatnonzero(np.diff(log_frequency)) + 1:
        wide = log_frequency[start] - log_frequency[edges[-1]] >= np.log(POOL_WIDTH)
        if wide and start - edges[-1] >= POOL_DRAWS:
            edges.append(int(start))
    if len(edges) > 1 and len(log_frequency) - edges[-1] < POOL_DRAWS:
        edges.pop()
    return edges[1:]


def _quantiles(draws: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Null r at each level of p: the descending draws, and the fitted tail where it lies higher."""
    n = len(draws)
    rank = np.arange(1, n + 1)
    drawn = np.interp(level, (1 + rank) / (1 + n), draws)
    n_tail = min(TAIL_DRAWS, n // 10)
    if n_tail < LEAST_TAIL:
        return drawn
    u, p_u = draws[n_tail], (2 + n_tail) / (1 + n)
    shape, scale = _generalised_pareto(draws[:n_tail][::-1] - u)
    rarer = np.log(p_u / np.minimum(level, p_u))
    tail = u + scale * (np.expm1(shape * rarer) / shape if shape > 0 else rarer)
    return np.where(level < p_u, np.maximum(drawn, tail), drawn)


def _generalised_pareto(excess: np.ndarray) -> tuple[float, float]:
    """(shape xi >= 0, scale sigma) by probability-weighted moments of ascending excesses."""
    n = len(excess)
    mean = excess.mean()
    weighted = (excess * np.arange(n - 1, -1, -1)).sum() / (n * (n - 1))
    rest = mean - 2 * weighted
    shape = 2 - mean / rest if rest > 0 else 0.0
    return (shape, 2 * mean * weighted / rest) if shape > 0 else (0.0, mean)
