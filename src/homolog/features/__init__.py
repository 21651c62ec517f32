"""Feature activations on a token stream: captured, in memory, on disk, with statistics.

The features of any dictionaries on any text, from a model that runs once:

    >>> from pathlib import Path
    >>> import homolog
    >>> from homolog import corpus, dictionaries, features
    >>> model = homolog.load("zoo:transformer-s0")
    >>> text = corpus.pack(corpus.read_documents("zoo:demo"), model.tokenizer, 64, n_tokens=4096)
    >>> residuals = features.capture_residuals(model, text, [1])[1]
    >>> source = dictionaries.ResidualArrays([residuals], seed=0)
    >>> settings = dictionaries.TrainingConfig(n_tokens=4096, batch=256)
    >>> config = dictionaries.parse_config({"kind": "topk", "d_sae": 96, "k": 8})
    >>> [sae] = dictionaries.train(source, config, settings, model="mine")["sae"]

    >>> target = features.Target(Path("features"), "mine", 1, "sae", "mine 1", lambda: sae)
    >>> [stored] = features.write_features(model, text, [target])
    >>> stored.n_features, stored.n_tokens == len(residuals)
    (96, True)
    >>> best = homolog.max_pearson(features.load_features("features").matrix, residuals.numpy())
    >>> best.a_to_b.r.shape, best.b_to_a.r.shape
    ((96, 1), (128, 1))

What lies there already is not computed again, unless it is damaged or of something else.
"""

from homolog.features.activations import (
    Activations,
    DenseFeatures,
    FeatureStatistics,
    SparseFeatures,
)
from homolog.features.capture import Shard, capture, capture_residuals, cut_shards
from homolog.features.residuals import write_residuals
from homolog.features.store import Target, close_features, encode_shard, write_features
from homolog.features.stored import StoredFeatures, check_same_stream, load_features, open_features
from homolog.features.streamed import Pool, StreamedResiduals

__all__ = [
    "Activations",
    "DenseFeatures",
    "FeatureStatistics",
    "Pool",
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
    "encode_shard",
    "load_features",
    "open_features",
    "write_features",
    "write_residuals",
]
