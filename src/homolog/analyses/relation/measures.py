"""The measures of a feature that are held against its match, as columns and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MeasureWords:
    """A measure in words.  says: what an end of its range means."""

    title: str
    unit: str
    says: str


MEASURES: Mapping[str, MeasureWords] = {
    "token_entropy": MeasureWords(
        "Entropy of its tokens", "bits", "0: it fires on one token only; more: on many"
    ),
    "token_r2": MeasureWords(
        "Predicted by the token", "share of variance", "1: the current token alone decides"
    ),
    "context_tokens": MeasureWords(
        "Left context it needs", "tokens", "1: the token itself is enough"
    ),
    "consistency": MeasureWords(
        "Consistency of contexts", "-1 to 1", "0: as alike as random ones; 1: always more alike"
    ),
    "context_consistency": MeasureWords(
        "The same without the token", "-1 to 1", "what contexts share before the token"
    ),
    "complexity": MeasureWords("Complexity, rated", "1 to 5", "5: an abstract idea"),
    "consistency_rated": MeasureWords(
        "Consistency, rated", "1 to 5", "5: one pattern in every text"
    ),
    "detection": MeasureWords("Detection, rated", "0 to 1", "0.5: the explanation says nothing"),
}
RATED = ("complexity", "consistency_rated", "detection")
"""Those that a language model gives; the others are columns of the features."""
