"""What the features of a dictionary mean: the contexts they fire in, how simple they are, where they point."""

from homolog.interpretation.consistency import consistency
from homolog.interpretation.directions import Nearest, Promoted, nearest, promoted
from homolog.interpretation.examples import examples
from homolog.interpretation.table import feature_table
from homolog.interpretation.token_statistics import token_statistics

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
