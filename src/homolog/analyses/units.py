"""The units between two models of a run whose tokenizers differ, as rows of each one's features."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.sparse import csr_array

from homolog.analyses.material import Material
from homolog.analyses.stream import shape_of
from homolog.corpus import TokenWindows
from homolog.corpus.together import Alignment
from homolog.features.pooled import Rows

Texts = tuple[str, str]
"""Of two tokenizers, by their names in the run (`RunFolder.text_of`), in order."""


def alignment(material: Material, texts: Texts, use: str = "match") -> Alignment:
    """The units between two texts."""
    return _alignment(*(material.windows_of(use, text) for text in texts))


def rows_of(aligned: Alignment, texts: Texts, text: str) -> tuple[Rows, Rows]:
    """The first and the last row of each unit, among the tokens of one of the two texts."""
    units = aligned.units
    if text == texts[0]:
        return units.first_a, units.last_a
    return units.first_b, units.last_b


def spread(matrix: csr_array, rows: Rows, n_rows: int) -> csr_array:
    """The rows of a matrix at these rows of one of n_rows, ascending; all others are zeros."""
    size = np.zeros(n_rows + 1, np.int64)
    size[rows + 1] = np.diff(matrix.indptr)
    shape = (n_rows, shape_of(matrix)[1])
    return csr_array((matrix.data, matrix.indices, np.cumsum(size)), shape=shape)


def features_on(material: Material, model: str, layer: int, other: str) -> csr_array:
    """The features of a layer of `model`, a row for each token that the model `other` reads.

    Where the tokenizers of the two differ, they are known where units end, and 0 elsewhere.
    """
    matrix = material.features(model, layer, beside=other).matrix
    texts = material.texts_of(model, other)
    if texts is None:
        return matrix
    _, last = rows_of(alignment(material, texts), texts, material.run.text_of(other))
    return spread(matrix, last, int(material.windows("match", other).mask.sum()))


@lru_cache(maxsize=2)
def _alignment(a: TokenWindows, b: TokenWindows) -> Alignment:
    return Alignment.of(a, b)
