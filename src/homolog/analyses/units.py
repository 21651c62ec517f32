"""The units between two models of a run whose tokenizers differ, as rows of each one's features."""

from __future__ import annotations

from functools import lru_cache

from homolog.analyses.material import Material
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


@lru_cache(maxsize=2)
def _alignment(a: TokenWindows, b: TokenWindows) -> Alignment:
    return Alignment.of(a, b)
