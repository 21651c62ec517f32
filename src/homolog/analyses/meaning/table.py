"""One row a feature of a layer: how often it fires, what its token says, where its direction
points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from homolog.analyses.meaning.consistency import consistency
from homolog.analyses.meaning.directions import Decoder, nearest, promoted
from homolog.analyses.meaning.token_statistics import token_statistics
from homolog.corpus import TokenText, TokenWindows, alone
from homolog.errors import InputError
from homolog.features import SparseFeatures
from homolog.models import LanguageModel


def feature_table(
    features: SparseFeatures,
    windows: TokenWindows,
    model: LanguageModel,
    W_dec: Decoder,
    texts: Sequence[TokenText],
    *,
    tokens: int = 10,
    near: int = 5,
    seed: int = 0,
) -> pl.DataFrame:
    """The measures of one layer, sorted by feature.

    windows: the stream of the features.  W_dec: of their dictionary.  texts: of every token id
    (`corpus.token_texts`).
    tokens: promoted, suppressed and top tokens of a feature; near: features nearest to it, at most
    all others.

    Columns: model str, layer i32, feature i32, n_active i64, freq f64, mean_active f32, max f32,
    token_entropy f32 (bits), token_r2 f32, consistency f32, context_consistency f32 (the current
    token left out), promoted, suppressed list[str], near_feature list[i32], near_cosine list[f32],
    top_tokens list[str].  NaN where undefined; the lists of a decoder row of zeros are empty.  A
    token that is part of a character is shown by its bytes, as "<E8>".
    InputError: what does not belong together.
    """
    if len(W_dec) != features.n_features:
        raise InputError(
            "W_dec",
            tuple(W_dec.shape),
            f"there are {features.n_features} features",
            "Give the dictionary that encoded them.",
        )
    largest = int(windows.tokens.max(initial=-1))
    if largest >= len(texts):
        raise InputError(
            "texts",
            len(texts),
            f"the stream has token {largest}",
            "Give the text of every token id.",
        )
    measured = token_statistics(features, windows, top=tokens)
    effect, alike = promoted(model, W_dec, tokens), nearest(W_dec, min(near, len(W_dec) - 1))
    where = [pl.lit(features.model).alias("model"), pl.lit(features.layer, pl.Int32).alias("layer")]
    return measured.select(
        *where,
        pl.exclude("top_tokens"),
        pl.Series("consistency", consistency(features, windows, seed=seed)),
        pl.Series(
            "context_consistency", consistency(features, windows, token_share=0.0, seed=seed)
        ),
        pl.Series("promoted", _words(effect.promoted.tolist(), texts), dtype=pl.List(pl.String)),
        pl.Series(
            "suppressed", _words(effect.suppressed.tolist(), texts), dtype=pl.List(pl.String)
        ),
        pl.Series(
            "near_feature",
            _defined(alike.feature.numpy(), alike.feature.numpy()),
            dtype=pl.List(pl.Int32),
        ),
        pl.Series(
            "near_cosine",
            _defined(alike.cosine.numpy(), alike.feature.numpy()),
            dtype=pl.List(pl.Float32),
        ),
        pl.Series(
            "top_tokens", _words(measured["top_tokens"].to_list(), texts), dtype=pl.List(pl.String)
        ),
    )


def _words(ids: list[list[int]], texts: Sequence[TokenText]) -> list[list[str]]:
    return [[alone(texts[i]) for i in row if i >= 0] for row in ids]


def _defined(values: np.ndarray, feature: np.ndarray) -> list[list[float]]:
    return [row[own >= 0].tolist() for row, own in zip(values, feature, strict=True)]
