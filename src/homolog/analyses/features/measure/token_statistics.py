"""What the current token alone says of a feature: entropy, predictability, tokens it fires on.

x[t] is the feature's value at kept token t of the stream (0 where it does not fire), s[t] the token
id there.

    token_entropy = - sum_s p(s) log2 p(s),   p(s) = sum of x[t] with s[t] = s / sum of x[t]  (bits)

2^entropy is the number of equally strong tokens that would give the same.  Weighting by x is
weighting by what the feature adds to the residual stream: many faint firings on other tokens do not
hide the one it is about.  At most log2 n_active.

    token_r2 = mean over (a, b) = (1, 2), (2, 1) of
               1 - sum_{t in half b} (x[t] - m_a(s[t]))^2 / sum_{t in half b} (x[t] - mean_b)^2

m_a(s): mean of x over the tokens of half a with id s, zeros included; over all of half a for an id
that half a does not have.  Whole documents make the halves.  Out of sample, because a mean for each
id learns rare ids by heart; a feature that does not depend on the token therefore comes out at 0 or
slightly below, and nothing is clipped.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Int, Int8

from homolog.analyses.features.measure import example_kernels as kernels
from homolog.analyses.features.measure.examples import list_column
from homolog.analyses.stream import check_stream
from homolog.corpus import TokenWindows
from homolog.errors import InputError
from homolog.features import SparseFeatures


def token_statistics(
    features: SparseFeatures, windows: TokenWindows, *, top: int = 8
) -> pl.DataFrame:
    """Measures of every feature, one row each, in order.

    windows: the stream that the features were encoded on.  top: length of top_tokens at most.

    Columns: feature, n_active, freq, mean_active (NaN without active tokens), max, token_entropy
    (NaN for a feature that never fires), token_r2 (NaN where it does not vary in one of the
    halves), as `FEATURES` has them, and top_tokens list[i32] (the ids of the largest sums of x,
    largest first).
    Memory beyond the matrix: 8 bytes per active token of one block of features (`column_blocks`).
    InputError: another stream than the features', negative activations.
    """
    check_stream(features, windows)
    if top < 0:
        raise InputError("top", top, "a count must not be negative", "Give 0 or more.")
    token = windows.tokens[windows.mask]
    half = halves(features.document)
    size = int(token.max(initial=0)) + 1
    count = np.stack([np.bincount(token[half == b], minlength=size) for b in range(2)])
    parts = []
    for block in kernels.column_blocks(features):
        mean, highest, entropy, r2, best = kernels.by_token(block, token, half, count, top)
        n_active = np.diff(block.start)
        offset = np.concatenate([[0], np.cumsum((best >= 0).sum(axis=1))])
        measured = {
            "feature": np.arange(block.first, block.first + len(n_active), dtype=np.int32),
            "n_active": n_active,
            "freq": n_active / max(1, features.n_tokens),
            "mean_active": mean.astype(np.float32),
            "max": highest,
            "token_entropy": entropy.astype(np.float32),
            "token_r2": r2.astype(np.float32),
            "top_tokens": list_column(offset, best[best >= 0]),
        }
        parts.append(pl.DataFrame(measured))
    return pl.concat(parts, rechunk=True)


def halves(document: Int[np.ndarray, " token"]) -> Int8[np.ndarray, " token"]:
    """0 or 1 for each token: whole documents, dealt by length: 0, 1, 1, 0, 0, ..."""
    _, which, size = np.unique(document, return_inverse=True, return_counts=True)
    half = np.empty(len(size), np.int8)
    half[np.argsort(-size, kind="stable")] = (np.arange(len(size)) + 1) // 2 % 2
    return half[which]
