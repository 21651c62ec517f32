"""Pearson matching: ours against numpy.corrcoef and the dense method of the released code, in one run.

    python benchmarks/matching.py --tokens 20000 --features 768 --active 30

The other two, in our words:
    numpy.corrcoef   the whole correlation matrix of both sides in float64, then the maximum;
    raw moments      what the released code of [Wang 2025] does: chunk by chunk of tokens, both sides dense in
                     low precision; sums, sums of squares and the full product matrix; then
                     (n S_xy - S_x S_y) / (sqrt(n S_xx - S_x^2) sqrt(n S_yy - S_y^2)), undefined values 0, the
                     maximum.  It also encodes both layers again for every layer pair: not counted here.
Prints seconds a layer pair, ratios to ours, and the largest error of r against float64.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import scipy.sparse
import torch

from homolog.matching import max_pearson, prepare

CHUNK = 4096
T = TypeVar("T")


def skewed_features(tokens: int, features: int, active: float, seed: int) -> scipy.sparse.csr_array:
    """Random features with frequencies proportional to rank^-0.7 (at most 0.7), `active` a token."""
    generator = np.random.default_rng(seed)
    weight = (np.arange(features) + 8.0) ** -0.7
    scale = active / weight.sum()
    for _ in range(50):
        scale *= active / np.minimum(0.7, scale * weight).sum()
    frequency = generator.permutation(np.minimum(0.7, scale * weight))
    columns, rows = [], []
    for feature, p in enumerate(frequency):
        where = np.flatnonzero(generator.random(tokens, dtype=np.float32) < p)
        rows.append(where)
        columns.append(np.full(len(where), feature))
    row, column = np.concatenate(rows), np.concatenate(columns)
    value = generator.exponential(size=len(row)).astype(np.float32)
    return scipy.sparse.coo_array((value, (row, column)), shape=(tokens, features)).tocsr()


def numpy_corrcoef(a: scipy.sparse.csr_array, b: scipy.sparse.csr_array) -> np.ndarray:
    r = np.corrcoef(a.toarray().T, b.toarray().T, dtype=np.float64)[: a.shape[1], a.shape[1] :]
    return r.max(axis=1)


def raw_moments(
    a: scipy.sparse.csr_array, b: scipy.sparse.csr_array, products: torch.dtype, sums: torch.dtype
) -> np.ndarray:
    n, total = a.shape[0], torch.zeros(a.shape[1], b.shape[1], dtype=sums)
    moments = [torch.zeros(width, dtype=sums) for width in (a.shape[1], a.shape[1], b.shape[1], b.shape[1])]
    for start in range(0, n, CHUNK):
        x = torch.from_numpy(a[start : start + CHUNK].toarray()).to(products)
        y = torch.from_numpy(b[start : start + CHUNK].toarray()).to(products)
        total += (x.T @ y).to(sums)
        for moment, value in zip(moments, (x, x * x, y, y * y), strict=True):
            moment += value.sum(dim=0, dtype=sums)
    x, xx, y, yy = moments
    r = (n * total - x[:, None] * y) / (torch.sqrt(n * xx - x * x)[:, None] * torch.sqrt(n * yy - y * y))
    return torch.nan_to_num(r, nan=0.0, posinf=0.0, neginf=0.0).max(dim=1).values.double().numpy()


def best_of(repeats: int, function: Callable[[], T]) -> tuple[float, T]:
    seconds, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    assert result is not None
    return min(seconds), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20_000, help="tokens of the stream")
    parser.add_argument("--features", type=int, default=768, help="features of each side")
    parser.add_argument("--active", type=float, default=30, help="mean active features a token")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side; the fastest counts")
    options = parser.parse_args()
    a, b = (skewed_features(options.tokens, options.features, options.active, seed) for seed in (0, 1))
    left, right = prepare(a), prepare(b)
    max_pearson(left, right)  # compile
    prepared, _ = best_of(options.repeats, lambda: (prepare(a), prepare(b)))
    ours, found = best_of(options.repeats, lambda: max_pearson(left, right, k=2).a_to_b.r[:, 0])
    exact_seconds, exact = best_of(1, lambda: numpy_corrcoef(a, b))
    low, low_r = best_of(1, lambda: raw_moments(a, b, torch.bfloat16, torch.bfloat16))
    single, single_r = best_of(1, lambda: raw_moments(a, b, torch.float32, torch.float32))
    work = np.sum(np.diff(a.indptr).astype(np.float64) * np.diff(b.indptr))
    print(f"{options.tokens} tokens, {a.shape[1]} x {b.shape[1]} features, {options.active:g} active")
    print(f"{'':34}{'s a pair':>10}{'ratio':>8}{'largest error of r':>20}")
    rows = (
        ("ours (both directions, k = 2)", ours, found),
        ("numpy.corrcoef, float64", exact_seconds, exact),
        ("raw moments, dense, bfloat16", low, low_r),
        ("raw moments, dense, float32", single, single_r),
    )
    for name, seconds, r in rows:
        print(f"{name:34}{seconds:10.3f}{seconds / ours:8.1f}{np.nanmax(np.abs(r - exact)):20.1e}")
    print(f"ours, preparing both sides once   {prepared:10.3f}")
    print(f"ours, sparse products             {work / ours / 1e9:10.2f} G multiply-adds/s")


if __name__ == "__main__":
    main()
