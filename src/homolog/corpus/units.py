"""Where tokens lie in their text, and the units in which two tokenisations of it agree.

A text of n bytes (UTF-8) is cut by each tokenizer:

    token i of A covers the bytes  e_(i-1) < position <= e_i,     e_last = n

so every byte belongs to exactly one token.  What no token covers goes to the token before it (an
accent that is dropped), but spaces to the token after them, at the end to the last.  A *unit* is a
shortest stretch at whose ends both have a token boundary:

    boundaries of the units = {e_i of A} and {e_j of B} in common

At the end of a unit both models have read the same text, to the byte.

Where a character is spread over several tokens (bytes of an emoji), its bytes tell where each ends,
as long as the tokens spell the text as it is written.  Where a normaliser changed it (NFC, lower
case, a space put in front), the ends follow from the offsets of the `tokenizers` library, which
refer to the text as it was; tokens that these do not tell apart end together, where the last of
them ends, and no unit ends between them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, Int64

from homolog.corpus.token_text import token_texts
from homolog.errors import InputError


@dataclass(frozen=True, eq=False)
class TokenEnds:
    """A text as a tokenizer cuts it: ids, and the byte after each token.

    ids: int32 (tokens,).  end: int64 (tokens,), not decreasing, the last the length of the text.
    """

    ids: Int32[np.ndarray, " tokens"]
    end: Int64[np.ndarray, " tokens"]


class Cutter:
    """Cuts texts as one tokenizer of the transformers library does, and says where.

    Raises InputError, with the tokenizer's name and the first place, where its tokens cannot be
    laid over the text: one without offsets (not of the `tokenizers` library) that changes the text,
    and one whose offsets run backwards.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__

    def cut(self, texts: Sequence[str]) -> Iterator[TokenEnds]:
        """The tokens of every text; special ones are not added."""
        if self._backend is None:
            for text in texts:
                ids = self.tokenizer.encode(text, add_special_tokens=False)
                yield self._without_offsets(text, np.asarray(ids, np.int32))
            return
        encoded = self._backend.encode_batch(texts, add_special_tokens=False)
        for text, encoding in zip(texts, encoded, strict=True):
            ids = np.asarray(encoding.ids, np.int32)
            offsets = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
            yield TokenEnds(ids, self._ends(text, ids, offsets))

    @cached_property
    def _backend(self) -> Any:
        """The fast tokenizer, with offsets that include spaces at the borders of tokens."""
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        if fast is None:
            return None
        whole = json.loads(fast.to_str())
        trimming = {"post_processor": None, "truncation": None, "padding": None}
        return type(fast).from_str(json.dumps(whole | trimming))

    @cached_property
    def _bytes(self) -> list[bytes]:
        """What each id spells."""
        texts = token_texts(self.tokenizer)
        return [text.encode() if isinstance(text, str) else bytes(text) for text in texts]

    @cached_property
    def _length(self) -> np.ndarray:
        return np.array(list(map(len, self._bytes)), np.int64)

    def _ends(self, text: str, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """The byte after each token, from characters [start, end) of the text as it was written."""
        if not len(ids):
            return np.zeros(0, np.int64)
        backwards = np.flatnonzero((np.diff(offsets, axis=0) < 0).any(axis=1))
        if len(backwards):
            raise self._refusal(text, int(offsets[backwards[0], 0]), "its offsets run backwards")
        place = _byte_places(text)
        start, end = place[offsets[:, 0]], place[_with_what_is_dropped(text, offsets)]
        joined = end[:-1] > start[1:]  # with the token after it
        first = np.flatnonzero(np.append(True, ~joined))
        if len(first) < len(ids):
            end = self._spread(text.encode(), ids, first, start, end)
        end[-1] = place[-1]
        return _from_the_first_byte(end)

    def _spread(
        self,
        text: bytes,
        ids: np.ndarray,
        first: np.ndarray,
        start: np.ndarray,
        end: np.ndarray,
    ) -> np.ndarray:
        """Ends within groups of tokens that share characters, by what the tokens spell.

        first: the first token of each group.
        """
        last = np.append(first[1:], len(ids)) - 1
        length = self._length[ids]
        group = np.repeat(np.arange(len(first)), last - first + 1)
        spelled_end = np.cumsum(length)
        spelled_start = spelled_end - length
        shift = start[first] - spelled_start[first]  # from spelled bytes to those of the text
        spelled = np.frombuffer(b"".join(self._bytes[i] for i in ids), np.uint8)
        written = np.frombuffer(text, np.uint8)
        at = np.arange(len(spelled)) + np.repeat(shift[group], length)
        inside = at < np.repeat(end[last][group], length)
        differs = ~inside
        differs[inside] = spelled[inside] != written[at[inside]]
        wrong = np.bincount(np.repeat(group, length)[differs], minlength=len(first)) > 0
        wrong |= spelled_end[last] + shift != end[last]
        return np.where(wrong[group], end[last][group], spelled_end + shift[group])

    def _without_offsets(self, text: str, ids: np.ndarray) -> TokenEnds:
        spelled, written = b"".join(self._bytes[i] for i in ids), text.encode()
        if spelled != written and len(ids):
            n = min(len(spelled), len(written))
            same = np.frombuffer(spelled, np.uint8, n) == np.frombuffer(written, np.uint8, n)
            at = len(written[: n if same.all() else int(same.argmin())].decode(errors="ignore"))
            raise self._refusal(text, at, "it changes the text and tells no offsets")
        return TokenEnds(ids, _from_the_first_byte(np.cumsum(self._length[ids])))

    def _refusal(self, text: str, at: int, reason: str) -> InputError:
        place = f"at character {at} of a text, before {text[at : at + 20]!r}"
        requirement = f"its tokens must lie over the text they are of, and {place}, {reason}"
        remedy = "Compare models that share a tokenizer, or whose tokenizers keep offsets."
        return InputError("tokenizer", self._name, requirement, remedy)


def _byte_places(text: str) -> np.ndarray:
    """The byte at which each character begins, and the length in bytes, int64."""
    point = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    width = 1 + (point >= 0x80).astype(np.int64) + (point >= 0x800) + (point >= 0x10000)
    return np.concatenate([[0], np.cumsum(width)])


def _with_what_is_dropped(text: str, offsets: np.ndarray) -> np.ndarray:
    """The character after each token and after what follows it in no token, spaces left out."""
    start, end = offsets.T
    if (end[:-1] >= start[1:]).all():
        return end
    spaces = [ord(character) for character in set(text) if character.isspace()]
    is_shown = ~np.isin(np.frombuffer(text.encode("utf-32-le"), np.uint32), spaces)
    after = np.where(is_shown, np.arange(1, len(text) + 1), 0)
    after = np.append(0, np.maximum.accumulate(after))  # the last before each character that shows
    return np.append(np.maximum(end[:-1], after[start[1:]]), end[-1])


def _from_the_first_byte(end: np.ndarray) -> np.ndarray:
    """Tokens before the first byte (a space put in front) end with the first that has one."""
    begun = np.searchsorted(end, 1)
    end[:begun] = end[min(begun, len(end) - 1)] if len(end) else 0
    return end


@dataclass(frozen=True, eq=False)
class Units:
    """The units of two tokenisations of one text, in the order of A's tokens.

    first_a, last_a: int64 (units,), the tokens of A from which and to which each runs; first_b,
    last_b: those of B.  n_bytes: int64 (units,).
    """

    first_a: Int[np.ndarray, " units"]
    last_a: Int[np.ndarray, " units"]
    first_b: Int[np.ndarray, " units"]
    last_b: Int[np.ndarray, " units"]
    n_bytes: Int[np.ndarray, " units"]

    def __len__(self) -> int:
        return len(self.first_a)

    def __getitem__(self, chosen: np.ndarray) -> Units:
        """Those chosen by a mask, or by their numbers in any order."""
        return Units(*(vars(self)[field.name][chosen] for field in fields(self)))


def units_of(bounds_a: np.ndarray, bounds_b: np.ndarray) -> Units:
    """The units of a text of which two tokenizers' windows hold stretches.

    bounds_a, bounds_b: int64 (windows, tokens + 1), the byte of the text before each window's first
    token and after each of its tokens (`TokenEnds.end`).  The windows of one do not overlap; they
    may stand in any order, and leave text out.  A unit's tokens follow each other in the flattened
    windows, and cover it, to the byte, on both sides.
    """
    boundary = np.intersect1d(bounds_a, bounds_b)
    sides = [_within(bounds, boundary) for bounds in (bounds_a, bounds_b)]
    (first_a, last_a, whole_a), (first_b, last_b, whole_b) = sides
    units = Units(first_a, last_a, first_b, last_b, np.diff(boundary))[whole_a & whole_b]
    return units[np.argsort(units.first_a, kind="stable")]


def _within(bounds: np.ndarray, boundary: np.ndarray) -> tuple[np.ndarray, ...]:
    """Between boundaries: the first and the last token, and whether they cover what is between."""
    n_windows, n_tokens = bounds.shape[0], bounds.shape[1] - 1
    ascending = np.argsort(bounds[:, 0], kind="stable")
    row = np.arange(n_windows * n_tokens).reshape(n_windows, n_tokens)[ascending].reshape(-1)
    end = bounds[ascending, 1:].reshape(-1)
    covered = np.append(0, np.cumsum(np.diff(bounds[ascending], axis=1)))
    after = np.searchsorted(end, boundary, "right")
    before, after = after[:-1], after[1:]
    if not len(row):
        return (*np.zeros((2, len(before)), np.int64), np.zeros(len(before), bool))
    first, last = row[np.minimum(before, len(row) - 1)], row[np.maximum(after, 1) - 1]
    whole = covered[after] - covered[before] == np.diff(boundary)
    whole &= (after > before) & (last - first == after - 1 - before)
    return first, last, whole
