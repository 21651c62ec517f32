"""Exact Pearson matching of features: pairs, all layers of two models, null, intervals, verdict."""

from homolog.matching.assignment import Assignment, mutual, one_to_one
from homolog.matching.by_weights import Nearest, Turn, WeightMatch, match_by_weights, procrustes
from homolog.matching.columns import Columns, prepare
from homolog.matching.intervals import Resamples, replicates_of, resampled_pairs, summarise
from homolog.matching.layers import ModelMatches, merge_layers, tables_of
from homolog.matching.match_settings import MatchSettings
from homolog.matching.matrices import StandIn, match
from homolog.matching.matrix_files import read_matrix, read_numbers
from homolog.matching.matrix_matches import MatrixMatches, Share
from homolog.matching.null import Calibration, calibrate, document_exchanges
from homolog.matching.pairs import PairMatch, match_pair
from homolog.matching.pearson import Best, Partners, max_pearson

__all__ = [
    "Assignment",
    "Best",
    "Calibration",
    "Columns",
    "MatchSettings",
    "MatrixMatches",
    "ModelMatches",
    "Nearest",
    "PairMatch",
    "Partners",
    "Resamples",
    "Share",
    "StandIn",
    "Turn",
    "WeightMatch",
    "calibrate",
    "document_exchanges",
    "match",
    "match_by_weights",
    "match_pair",
    "max_pearson",
    "merge_layers",
    "mutual",
    "one_to_one",
    "prepare",
    "procrustes",
    "read_matrix",
    "read_numbers",
    "replicates_of",
    "resampled_pairs",
    "summarise",
    "tables_of",
]
