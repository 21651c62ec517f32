"""All of one layer: the examples of its features, and one row of measures per feature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from homolog.analyses.analysis import Tables
from homolog.analyses.features.measure.consistency import consistency
from homolog.analyses.features.measure.directions import Decoder, nearest, promoted
from homolog.analyses.features.measure.examples import examples
from homolog.analyses.features.measure.token_statistics import token_statistics
from homolog.analyses.material import Material
from homolog.corpus import TokenText, TokenWindows, alone, token_texts
from homolog.dictionaries import derive_seed
from homolog.errors import InputError
from homolog.features import SparseFeatures
from homolog.models import LanguageModel
from homolog.record.tables import CONTEXTS, FEATURES


def measure_layer(material: Material, name: str, layer: int) -> Tables:
    """Task: the examples of a layer's features, and their rows of the table `features`."""
    model, windows = material.model(name), material.windows("match", name)
    own, decoder = material.features(name, layer), material.sae(name, layer).W_dec
    seed, wanted = derive_seed(material.seed, "examples", name, layer), material.interpretation
    shown = examples(own, windows, top=wanted.top, per_quantile=wanted.per_quantile, seed=seed)
    texts = token_texts(model.tokenizer)
    measures = feature_table(own, windows, model, decoder, texts, seed=seed)
    return {FEATURES.name: measures, CONTEXTS.name: shown}


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
    """The measures of one layer, as `FEATURES` has them, sorted by feature.

    windows: the stream of the features.  W_dec: of their dictionary.  texts: of every token id
    (`corpus.token_texts`).
    tokens: promoted, suppressed and top tokens of a feature; near: features nearest to it, at most
    all others.
    NaN where undefined; the lists of a decoder row of zeros are empty.  A token that is part of a
    character is shown by its bytes, as "<E8>".
    InputError: what does not belong together.
    """
    if len(W_dec) != features.n_features:
        shape, needed = tuple(W_dec.shape), f"there are {features.n_features} features"
        raise InputError("W_dec", shape, needed, "Give the dictionary that encoded them.")
    largest = int(windows.tokens.max(initial=-1))
    if largest >= len(texts):
        needed = f"the stream has token {largest}"
        raise InputError("texts", len(texts), needed, "Give the text of every token id.")
    statistics = token_statistics(features, windows, top=tokens)
    effect, alike = promoted(model, W_dec, tokens), nearest(W_dec, min(near, len(W_dec) - 1))
    neighbours, cosines = alike.feature.numpy(), alike.cosine.numpy()
    without_token = consistency(features, windows, token_share=0.0, seed=seed)
    columns = {
        **statistics.to_dict(),
        "model": [features.model] * features.n_features,
        "layer": [features.layer] * features.n_features,
        "consistency": consistency(features, windows, seed=seed),
        "context_consistency": without_token,
        "promoted": _words(effect.promoted.tolist(), texts),
        "suppressed": _words(effect.suppressed.tolist(), texts),
        "near_feature": _defined(neighbours, neighbours),
        "near_cosine": _defined(cosines, neighbours),
        "top_tokens": _words(statistics["top_tokens"].to_list(), texts),
    }
    return FEATURES.frame(columns)


def _words(ids: list[list[int]], texts: Sequence[TokenText]) -> list[list[str]]:
    return [[alone(texts[i]) for i in row if i >= 0] for row in ids]


def _defined(values: np.ndarray, feature: np.ndarray) -> list[list[float]]:
    return [row[own >= 0].tolist() for row, own in zip(values, feature, strict=True)]
