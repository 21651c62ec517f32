"""Whether the contexts in which a feature fires are alike, without a language model.

Contexts i, j: 32 active positions of the feature, drawn with probability proportional to the
activation; r: 256 random positions of the stream, the same for all features.  Only pairs in
different documents count.

    s(i, j)     = w [same current token] + (1 - w) cos(c_i, c_j)
    consistency = 2 mean_{i != j, r} ( P[s(i, j) > s(i, r)] + P[s(i, j) = s(i, r)] / 2 ) - 1

c: bag of the 16 kept tokens before the position, in its window and document, each weighted by
idf(t) = log(windows / windows with t).  So it is how often a second context of the feature
resembles the first more than a random one does: 1 always, 0 as chance has it, and a feature of k
unrelated meanings of equal weight has 1/k of the consistency of one.

The current token is counted apart, with w = 1/2: in the bag it would be one word of 17, and
features of one token, the purest there are, would look like chance.  w = 0 leaves it out: what
contexts share before the token.  Ranks against random contexts, because cosines of two bags on one
topic are small and those of one repeated phrase are not, and both are one meaning.  A bag of words
sees a topic through repeated words only, and a place with no token before it has an empty bag,
which is like no other.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

from homolog.analyses.features.measure import consistency_kernels as kernels
from homolog.analyses.features.measure.example_kernels import column_blocks, flattened
from homolog.analyses.stream import check_stream
from homolog.corpus import TokenWindows
from homolog.errors import InputError
from homolog.features import SparseFeatures

SAMPLE = 32  # positions of a feature
BEFORE = 16  # tokens of a context
REFERENCE = 256  # random positions
LEAST = 4  # documents in which the drawn positions must lie


def consistency(
    features: SparseFeatures, windows: TokenWindows, *, token_share: float = 0.5, seed: int = 0
) -> Float32[np.ndarray, "d_sae"]:
    """Consistency of the contexts of every feature, in [-1, 1].

    NaN where the drawn positions lie in fewer than 4 documents.

    windows: the stream that the features were encoded on.  token_share: w, the weight of the
    current token.
    Memory beyond the matrix: 8 bytes per active token of one block of features (`column_blocks`),
    and 1 KiB per token id.
    InputError: another stream than the features', negative activations, a weight outside [0, 1].
    """
    check_stream(features, windows)
    if not 0 <= token_share <= 1:
        raise InputError("token_share", token_share, "it must lie between 0 and 1", "Give 0.5.")
    stream, weight = flattened(windows), inverse_frequency(windows)
    random = np.random.default_rng(seed).permutation(len(stream.place))[:REFERENCE]
    columns = kernels.reference_columns(stream.place[random], stream, weight, BEFORE)
    reference = kernels.Reference(stream.place[random], columns)
    parts = [np.empty(0, np.float32)]
    for block in column_blocks(features):
        rows = kernels.draw(block, seed, SAMPLE)
        places = np.where(rows >= 0, stream.place[rows], -1)
        parts.append(kernels.alike(places, reference, stream, weight, BEFORE, token_share, LEAST))
    return np.concatenate(parts)


def inverse_frequency(windows: TokenWindows) -> Float[np.ndarray, "vocabulary"]:
    """log(windows / windows in which the token id stands), up to the largest; 0 where in none."""
    held = np.sort(np.where(windows.mask, windows.tokens, -1), axis=1)
    new = (held >= 0) & (np.diff(held, axis=1, prepend=-1) != 0)
    holding = np.bincount(held[new], minlength=int(windows.tokens.max()) + 1)
    return np.where(holding > 0, np.log(len(windows) / np.maximum(holding, 1)), 0.0)
