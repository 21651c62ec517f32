"""Slow, independent Pearson correlations: integers, Python loops, documents concatenated."""

from __future__ import annotations

import math

import numpy as np


def integers(x: np.ndarray) -> list[int]:
    """The floats of a vector as exact integers, all multiplied by one power of two."""
    ratios = [float(value).as_integer_ratio() for value in x]
    common = max((denominator for _, denominator in ratios), default=1)
    return [numerator * (common // denominator) for numerator, denominator in ratios]


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson r of two vectors from exact sums, rounded at the end; NaN for a constant."""
    u, v = integers(x), integers(y)
    n = len(u)
    cov = n * sum(p * q for p, q in zip(u, v, strict=True)) - sum(u) * sum(v)
    var_x = n * sum(p * p for p in u) - sum(u) ** 2
    var_y = n * sum(q * q for q in v) - sum(v) ** 2
    if var_x == 0 or var_y == 0:
        return math.nan
    return math.copysign(math.sqrt(cov * cov / (var_x * var_y)), cov)


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """All r, float64 (features_a, features_b)."""
    return np.array(
        [[pearson(a[:, i], b[:, j]) for j in range(b.shape[1])] for i in range(a.shape[1])]
    ).reshape(a.shape[1], b.shape[1])


def best(r: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest of every row, NaN and -1 beyond; ties (as float32) to the lowest index."""
    values, indices = np.full((len(r), k), np.nan), np.full((len(r), k), -1)
    for i, row in enumerate(r):
        ranked = sorted(
            (-float(np.float32(value)), j) for j, value in enumerate(row) if not math.isnan(value)
        )
        for place, (_, j) in enumerate(ranked[:k]):
            values[i, place], indices[i, place] = row[j], j
    return values, indices


def resampled(x: np.ndarray, y: np.ndarray, document: np.ndarray, drawn: list[int]) -> float:
    """r of x and y on the drawn documents, concatenated as often as they were drawn."""
    rows = np.concatenate([np.flatnonzero(document == number) for number in drawn])
    return pearson(x[rows], y[rows])
