"""Features in memory matched as a study matches those on disk: all pairs of layers, then tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from homolog.features import Activations
from homolog.matching import ModelMatches, match_pair, prepare, tables_of
from homolog.matching.layers import check_layers


def match_models(
    features_a: Sequence[Activations],
    features_b: Sequence[Activations],
    *,
    comparison: str = "main",
    exchanges: Sequence[np.ndarray] = (),
) -> ModelMatches:
    check_layers(features_a, features_b)
    a, b = ([prepare(layer.matrix) for layer in side] for side in (features_a, features_b))
    pairs = [[match_pair(left, right, exchanges=exchanges) for right in b] for left in a]
    return tables_of(features_a, features_b, pairs, comparison=comparison)
