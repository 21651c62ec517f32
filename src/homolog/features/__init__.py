"""Feature activations on a token stream: captured from a model, in memory, on disk, with statistics."""

from homolog.features.activations import (
    Activations,
    DenseFeatures,
    FeatureStatistics,
    SparseFeatures,
    check_same_stream,
    load_features,
)
from homolog.features.capture import capture, residual_sites
from homolog.features.encode import encode, to_sparse

__all__ = [
    "Activations",
    "DenseFeatures",
    "FeatureStatistics",
    "SparseFeatures",
    "capture",
    "check_same_stream",
    "encode",
    "load_features",
    "residual_sites",
    "to_sparse",
]
