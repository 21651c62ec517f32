"""What features mean: the contexts they fire in, how simple they are, where they point."""

from homolog.analyses.features.measure.consistency import consistency
from homolog.analyses.features.measure.directions import Nearest, Promoted, nearest, promoted
from homolog.analyses.features.measure.examples import examples
from homolog.analyses.features.measure.layer import feature_table
from homolog.analyses.features.measure.token_statistics import token_statistics

__all__ = [
    "Nearest",
    "Promoted",
    "consistency",
    "examples",
    "feature_table",
    "nearest",
    "promoted",
    "token_statistics",
]
