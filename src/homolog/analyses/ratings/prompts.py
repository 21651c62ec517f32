"""What is asked, in explain.md and detect.md beside this file, and what counts as an answer.

An answer is the one JSON object in the reply, with the fields that were asked for, in their
ranges.  Anything else is malformed: it is counted, and nothing is guessed from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from homolog.record.atomic import sha256_bytes

LEVELS = range(1, 6)
_FOLDER = resources.files("homolog.analyses.ratings")
_TEXTS = {name: (_FOLDER / f"{name}.md").read_text("utf-8") for name in ("explain", "detect")}
VERSION = sha256_bytes(*(text.encode() for text in _TEXTS.values()))[:12]
"""Changes with every change of the questions; stands beside every result."""


@dataclass(frozen=True)
class Excerpt:
    """A piece of text: its tokens, the feature's value at each, and which of them it is about."""

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    at: int

    def marked(self) -> str:
        """The text with every token at which the feature is active marked."""
        shown = zip(self.tokens, self.values, strict=True)
        return "".join(f"«{token}»" if value > 0 else token for token, value in shown)

    def pointed(self) -> str:
        """The text with the token it is about marked, whatever the values."""
        return "".join(f"«{t}»" if i == self.at else t for i, t in enumerate(self.tokens))


@dataclass(frozen=True)
class Explanation:
    """An answer to `explain`, with its two ratings from 1 to 5."""

    text: str
    complexity: int
    consistency: int


def explain(excerpts: Sequence[Excerpt], highest: float) -> str:
    """The question for an explanation; highest: the feature's largest value, 10 in the texts."""
    parts = []
    for number, excerpt in enumerate(excerpts, 1):
        levels = (
            f"{token.strip() or json.dumps(token)} {math.ceil(10 * min(value / highest, 1))}"
            for token, value in zip(excerpt.tokens, excerpt.values, strict=True)
            if value > 0
        )
        parts.append(f"Text {number}: {excerpt.marked()}\nValues: {', '.join(levels)}")
    return _TEXTS["explain"].replace("{{ texts }}", "\n\n".join(parts))


def detect(explanation: str, excerpts: Sequence[Excerpt]) -> str:
    """The question that asks which of the numbered texts an explanation fits."""
    texts = "\n\n".join(
        f"Text {number}: {excerpt.pointed()}" for number, excerpt in enumerate(excerpts, 1)
    )
    filled = _TEXTS["detect"].replace("{{ n }}", str(len(excerpts)))
    # neither text may fill a place in the other
    head, _, tail = filled.partition("{{ explanation }}")
    return head + explanation + tail.replace("{{ texts }}", texts)


def read_explanation(reply: str) -> Explanation | None:
    """What an answer to `explain` says; None when it is malformed."""
    said = _json_object(reply)
    if said is None:
        return None
    text, levels = said.get("explanation"), [said.get("complexity"), said.get("consistency")]
    whole = all(type(level) is int and level in LEVELS for level in levels)
    if not isinstance(text, str) or not text.strip() or not whole:
        return None
    return Explanation(text.strip(), *levels)  # type: ignore[arg-type]


def read_detection(reply: str, n: int) -> frozenset[int] | None:
    """The numbers, from 0, that an answer to `detect` lists of `n` texts; None if malformed."""
    said = _json_object(reply)
    numbers = None if said is None else said.get("active")
    if not isinstance(numbers, list) or not all(type(i) is int and 1 <= i <= n for i in numbers):
        return None
    return frozenset(i - 1 for i in numbers)


def _json_object(reply: str) -> dict[str, object] | None:
    """The only JSON object of a reply, in a fence or among words; None for none or several."""
    decoder, objects, at = json.JSONDecoder(), [], reply.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(reply, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            objects.append(value)
        at = reply.find("{", end)
    return objects[0] if len(objects) == 1 else None
