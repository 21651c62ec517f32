"""Matching at the paper's scale: ours against its released code and numpy, and how ours scales.

    python benchmarks/matching.py [--quick] [--threads N] [--write]

* the same features to every method, each in a fresh process that measures the peak of its memory
  beyond them: seconds, memory, and the largest error of r against exact sums on `SAMPLE` features,
  frequent to rare;
* seconds of ours over tokens, features, active features and threads, with fitted exponents;
* how far the kernel is from what bounds it (`matching_bounds`).

Methods are in `pearson_rivals`, features in `skewed`.  The dense method is measured whole at the
smallest number of tokens; its time is a constant a chunk of tokens, so beyond that it is computed
from the measured chunks and marked.  `--quick` does all of it at small sizes in a minute; `--write`
writes docs/benchmarks-matching.md and its figure.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from matching_bounds import bounds, products
from matching_page import OURS, RELEASED, Point, Results, Row, Size, markdown, save
from measuring import alone, busy, fastest, peak_beyond, timed
from pearson_rivals import (
    CHUNK,
    Maxima,
    dense_float32,
    exact_maxima,
    numpy_corrcoef,
    released,
    scipy_products,
)
from skewed import skewed_pair

from homolog.matching import Columns, max_pearson, prepare

SAMPLE = 64  # features of A whose r is compared with exact sums
TINY = 300, 64, 8  # tokens, features, active: compiles and loads
K = 2  # partners of each feature: the best and its runner-up


@dataclass(frozen=True)
class Plan:
    """Sizes: all methods at `small`; ours and the released one at `paper`.

    From `paper[-1]` on, one number at a time changes.
    """

    small: Size
    paper: tuple[Size, ...]
    tokens: tuple[int, ...]
    features: tuple[int, ...]
    active: tuple[float, ...]


FULL = Plan(
    small=Size(20_000, 3_072, 50),
    paper=tuple(Size(tokens, 24_576, 50) for tokens in (20_000, 100_000, 1_000_000)),
    tokens=(62_500, 125_000, 250_000, 500_000, 1_000_000),
    features=(3_072, 6_144, 12_288, 24_576),
    active=(12, 25, 50, 100),
)
QUICK = Plan(
    small=Size(5_000, 384, 20),
    paper=tuple(Size(tokens, 1_536, 30) for tokens in (8_000, 16_000, 32_000)),
    tokens=(8_000, 16_000, 32_000),
    features=(384, 768, 1_536),
    active=(15, 30, 60),
)


def ours(a: Any, b: Any) -> Maxima:
    best = max_pearson(a, b, K)
    return Maxima(best.a_to_b.r[:, 0].astype(np.float64))


METHODS: dict[str, Callable[[Any, Any], Maxima]] = {
    OURS: ours,
    RELEASED: released,
    "the same in float32": dense_float32,
    "scipy.sparse, float64": scipy_products,
    "numpy.corrcoef, float64": numpy_corrcoef,
}


def set_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)


def sample(a: Any) -> np.ndarray:
    """Features of A that fire, evenly spaced from the most frequent to the rarest."""
    count = np.bincount(a.indices, minlength=a.shape[1])
    order = np.argsort(-count, kind="stable")[: np.count_nonzero(count)]
    return order[np.linspace(0, len(order) - 1, min(SAMPLE, len(order))).astype(int)]


def measure(name: str, size: Size, threads: int) -> tuple[Row, Maxima]:
    """A method at a size, after a call on a tiny one."""
    set_threads(threads)
    method = METHODS[name]
    method(*skewed_pair(*TINY))
    a, b = skewed_pair(size.tokens, size.features, size.active)
    peak, (seconds, maxima) = peak_beyond(lambda: timed(lambda: method(a, b)))
    row = Row(size, name, seconds, peak, math.nan)
    if name == OURS:
        row.seconds = min(seconds, fastest(lambda: method(a, b)))
        row.preparing = fastest(lambda: _prepared(a, b))
    features = sample(a)
    row.error = float(np.abs(maxima.r[features] - exact_maxima(a, b, features)).max())
    return row, maxima


def _prepared(a: Any, b: Any) -> tuple[Columns, Columns]:
    """Both sides with the orders of entries that `max_pearson` needs of them."""
    left, right = prepare(a), prepare(b)
    assert left.by_column and right.packed
    return left, right


def extrapolate(whole: Row, maxima: Maxima, size: Size, threads: int) -> Row:
    """The released method at more tokens: more chunks like those measured, the same afterwards."""
    chunks = [
        seconds * CHUNK / min(CHUNK, whole.size.tokens)
        for seconds in maxima.chunks[:-1] or maxima.chunks
    ]
    after = whole.seconds - sum(maxima.chunks)
    seconds = np.median(chunks) * size.tokens / CHUNK + after
    error = alone(released_error, size, threads)
    return Row(size, whole.method, float(seconds), whole.peak, error, extrapolated=True)


def released_error(size: Size, threads: int) -> float:
    """Largest error of the released method, run with the sampled features of A and all of B."""
    set_threads(threads)
    a, b = skewed_pair(size.tokens, size.features, size.active)
    features = sample(a)
    return float(np.abs(released(a[:, features], b).r - exact_maxima(a, b, features)).max())


def compare(plan: Plan, threads: int) -> list[Row]:
    """All methods at the small size, ours and the released one at the sizes of the paper."""
    rows = [alone(measure, name, plan.small, threads)[0] for name in METHODS]
    rows += [alone(measure, OURS, size, threads)[0] for size in plan.paper]
    whole, maxima = alone(measure, RELEASED, plan.paper[0], threads)
    return [*rows, whole, *(extrapolate(whole, maxima, size, threads) for size in plan.paper[1:])]


def scale(plan: Plan, threads: int) -> tuple[list[Point], dict[int, dict[str, float]]]:
    """Ours along every axis, and what bounds it at the largest size of the paper."""
    set_threads(threads)
    counts, largest = sorted({1, threads}), plan.paper[-1]
    ours(*skewed_pair(*TINY))
    a, b = skewed_pair(largest.tokens, largest.features, largest.active)
    points = [
        Point("tokens", replace(largest, tokens=n), *_cost(a[:n], b[:n], counts))
        for n in plan.tokens
    ]
    left, right = _prepared(a, b)
    bound = {n: bounds(left, right, n, K) for n in counts}
    at_largest = points[-1]
    del left, right
    sizes = [("features", replace(largest, features=features)) for features in plan.features]
    sizes += [("active", replace(largest, active=active)) for active in plan.active]
    for axis, size in sizes:
        if size == largest:
            points.append(replace(at_largest, axis=axis))
        else:
            del a, b
            a, b = skewed_pair(size.tokens, size.features, size.active)
            points.append(Point(axis, size, *_cost(a, b, counts)))
    return points, bound


def _cost(a: Any, b: Any, counts: list[int]) -> tuple[dict[int, float], float, float, float]:
    """What a `Point` has after its size."""
    preparing, (left, right) = timed(lambda: _prepared(a, b))
    seconds = {n: fastest(lambda n=n: max_pearson(left, right, K, threads=n)) for n in counts}
    loop = fastest(lambda: products(left, right, counts[-1]))
    return (
        seconds,
        loop,
        preparing / 2,
        float(np.sum(np.diff(a.indptr).astype(np.float64) * np.diff(b.indptr))),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, about a minute")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--write", action="store_true", help="write the page and the figure into docs"
    )
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    load = os.getloadavg()[0]
    print(busy(), flush=True)
    rows = compare(plan, options.threads)
    results = Results(load, options.threads, rows, *alone(scale, plan, options.threads))
    print(markdown(results))
    if options.write:
        save(results, Path(__file__).parents[1] / "docs")


if __name__ == "__main__":
    main()
