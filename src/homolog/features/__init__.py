"""Feature activations on a token stream: captured from a model, in memory, on disk, with
statistics.
"""

from homolog.features.activations import (
    Activations,
    DenseFeatures,
    FeatureStatistics,
    SparseFeatures,
    check_same_stream,
)
from homolog.features.capture import Shard, capture, capture_residuals, cut_shards, residual_sites
from homolog.features.encode import encode, to_sparse
from homolog.features.residuals import write_residuals
from homolog.features.store import Target, close_features, encode_shard, write_features
from homolog.features.stored import StoredFeatures, load_features, open_features
from homolog.features.streamed import StreamedResiduals

__all__ = [
    "Activations",
    "DenseFeatures",
    "FeatureStatistics",
    "Shard",
    "SparseFeatures",
    "StoredFeatures",
    "StreamedResiduals",
    "Target",
    "capture",
    "capture_residuals",
    "check_same_stream",
    "close_features",
    "cut_shards",
    "encode",
    "encode_shard",
    "load_features",
    "open_features",
    "residual_sites",
    "to_sparse",
    "write_features",
    "write_residuals",
]
