"""Exact Pearson matching of features: one pair of matrices, all layer pairs of two models, intervals."""

from homolog.matching.columns import Columns, prepare
from homolog.matching.intervals import SUMMARY_SCHEMA, Resamples, resampled_pairs, summarise
from homolog.matching.layers import LAYERS_SCHEMA, MATCHES_SCHEMA, ModelMatches, match_models, merge_layers
from homolog.matching.pearson import Best, Side, max_pearson

__all__ = [
    "LAYERS_SCHEMA",
    "MATCHES_SCHEMA",
    "SUMMARY_SCHEMA",
    "Best",
    "Columns",
    "ModelMatches",
    "Resamples",
    "Side",
    "match_models",
    "max_pearson",
    "merge_layers",
    "prepare",
    "resampled_pairs",
    "summarise",
]
