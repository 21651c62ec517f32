"""Streams and features that tests of the interpretation write down by hand."""

from __future__ import annotations

import numpy as np
import scipy.sparse

from homolog.corpus import TokenWindows
from homolog.features import SparseFeatures


def windows_of(
    tokens: np.ndarray, document: np.ndarray | None = None, mask: np.ndarray | None = None
) -> TokenWindows:
    """Windows (windows, context), each a document of its own, without masks, unless given."""
    tokens = np.asarray(tokens, np.int32)
    if document is None:
        document = np.broadcast_to(np.arange(len(tokens))[:, None], tokens.shape)
    mask = np.ones(tokens.shape, bool) if mask is None else mask
    return TokenWindows(
        tokens, np.ascontiguousarray(document, np.int32), mask, tokenizer_fingerprint="f"
    )


def features_of(values: np.ndarray, windows: TokenWindows) -> SparseFeatures:
    """Features on these windows: values (windows, context, features) or (kept tokens, features)."""
    rows = values[windows.mask] if values.ndim == 3 else values
    matrix = scipy.sparse.csr_array(np.asarray(rows, np.float32))
    return SparseFeatures(matrix, windows.hash, windows.token_document, "model", 2)


def random_stream(
    seed: int, n_windows: int = 40, context: int = 24, n_ids: int = 12
) -> TokenWindows:
    """Few token ids, documents that end anywhere in a window, and masked tokens."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, n_ids, (n_windows, context))
    document = np.cumsum(rng.random(tokens.size) < 0.05).reshape(tokens.shape)
    return windows_of(tokens, document, rng.random(tokens.shape) > 0.1)


def random_features(windows: TokenWindows, n_features: int, seed: int) -> SparseFeatures:
    """Rare and frequent ones, with values that are often equal; the first never fires."""
    rng = np.random.default_rng(seed)
    shape = int(windows.mask.sum()), n_features
    fires = rng.random(shape) < np.linspace(0, 0.9, n_features)
    return features_of(np.where(fires, rng.integers(1, 9, shape) / 4, 0), windows)
