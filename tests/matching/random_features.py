"""Random features of given densities, as the tests of correlations need them."""

from __future__ import annotations

import numpy as np


def features(
    seed: int, n_tokens: int, n_features: int, densities: list[float], kind: str
) -> np.ndarray:
    """Float32 columns whose densities cycle.

    kind: positive, signed, scaled (signed, over twenty powers of 2), binary, integer.
    """
    generator = np.random.default_rng(seed)
    active = generator.random((n_tokens, n_features)) < np.resize(densities, n_features)
    values = {
        "positive": generator.exponential(size=active.shape),
        "signed": generator.standard_normal(active.shape),
        "scaled": generator.standard_normal(active.shape)
        * 2.0 ** generator.integers(-20, 1, active.shape),
        "binary": np.ones(active.shape),
        "integer": generator.integers(-2, 3, active.shape),
    }[kind]
    return (active * values).astype(np.float32)
