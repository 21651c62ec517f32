"""What the features of a dictionary mean: the contexts they fire in, how simple they are, where
they point.
"""

from homolog.analyses.meaning.consistency import consistency
from homolog.analyses.meaning.directions import Nearest, Promoted, nearest, promoted
from homolog.analyses.meaning.examples import examples
from homolog.analyses.meaning.table import feature_table
from homolog.analyses.meaning.token_statistics import token_statistics

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
