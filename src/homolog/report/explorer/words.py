"""The text index: which features show a word in their contexts, top tokens or explanation.

A word is a longest run of letters, digits and underscores, in lower case; a Chinese character or
Japanese kana is one by itself.  Words run over the borders of tokens, and so do characters.  The
words of a model whose first two characters a, b have the same

    (31 ord(a) + ord(b)) mod buckets          (ord(b) = 0 for a word of one character)

stand in one file, so that a search by the beginning of a word loads one.  A word's rows are a
base64 of 7-bit groups (LEB128) of 2 d + f: d the distance from the row before (from -1), f = 1 if
the feature fires on a token that spells it.
"""

from __future__ import annotations

import base64
import re
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from types import TracebackType

import numpy as np
import polars as pl
from jaxtyping import Bool, Int, UInt8

from homolog.report.explorer.details import Contexts
from homolog.report.explorer.packing import write_data
from homolog.report.explorer.spelling import Spelling

_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")
FEATURES_A_FILE = 128
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def words_in(text: str) -> list[str]:
    """The words of a text, in lower case, in order."""
    return WORD.findall(text.lower())


def bucket(word: str, buckets: int) -> int:
    """The number of the file that has the word."""
    return (31 * ord(word[0]) + (ord(word[1]) if len(word) > 1 else 0)) % buckets


def n_buckets(n_features: int) -> int:
    """Files for a model of so many features: a power of two of 16 to 1024."""
    return int(np.clip(2 ** np.ceil(np.log2(max(n_features, 1) / FEATURES_A_FILE)), 16, 1024))


class WordIndex:
    """Gathers the words of a model layer by layer, in files of a scratch folder, and writes
    data/words/MODEL-BUCKET.js.

    Memory: the words of one layer, then those of one bucket.
    """

    def __init__(self, folder: Path, model: int, n_features: int, spelling: Spelling) -> None:
        self.folder, self.model, self.spelling = folder, model, spelling
        self.buckets = n_buckets(n_features)
        self._borders = _borders(spelling.texts)
        self._scratch = tempfile.TemporaryDirectory(prefix="homolog-words-")
        self._layers: list[
            tuple[Path, Int[np.ndarray, "buckets_1"], Int[np.ndarray, "buckets_1"]]
        ] = []

    def __enter__(self) -> "WordIndex":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scratch.cleanup()

    def add_layer(self, first_row: int, features: pl.DataFrame, contexts: Contexts | None) -> None:
        """Add a layer whose feature 0 is at `first_row`; layers come in ascending order of rows."""
        number: dict[str, int] = {}
        found = [self._described(features, number)]
        if contexts is not None and len(contexts.tokens):
            found.append(self._shown(contexts, number))
        word, feature, fires = np.concatenate(found, axis=1)
        names = np.array(list(number), dtype=object)
        buckets = np.array([bucket(name, self.buckets) for name in number], np.int64)
        place = np.empty(
            len(names), np.int64
        )  # of each word in the order of buckets, then of characters
        order = np.array(sorted(range(len(names)), key=lambda i: (buckets[i], names[i])), np.int64)
        place[order] = np.arange(len(names))
        keys = np.sort((place[word] * len(features) + feature) * 2 + fires)
        keys = keys[np.diff(keys >> 1, append=-1) != 0]  # one of each; it fires, where both
        pair = keys >> 1
        postings = (2 * (first_row + pair % len(features)) + (keys & 1)).astype(np.uint32)
        counts = np.bincount(pair // len(features), minlength=len(names))
        self._store(names[order], buckets[order], counts, postings)

    def _store(
        self,
        names: np.ndarray,
        buckets: Int[np.ndarray, "words"],
        counts: Int[np.ndarray, "words"],
        postings: np.ndarray,
    ) -> None:
        base = Path(self._scratch.name) / str(len(self._layers))
        np.save(base.with_suffix(".npy"), postings)
        np.save(base.with_suffix(".counts.npy"), counts)
        lines = [name.encode() + b"\n" for name in names]
        base.with_suffix(".txt").write_bytes(b"".join(lines))
        word_ends = np.searchsorted(buckets, np.arange(self.buckets + 1))
        byte_ends = np.concatenate([[0], np.cumsum([len(line) for line in lines], dtype=np.int64)])
        self._layers.append((base, word_ends, byte_ends[word_ends]))

    def _described(self, features: pl.DataFrame, number: dict[str, int]) -> Int[np.ndarray, "3 n"]:
        """Words of explanations and top tokens: (word, feature, 1)."""
        names = [name for name in ("explanation", "top_tokens") if name in features.columns]
        found = []
        for feature, row in enumerate(features.select(names).iter_rows() if names else ()):
            texts = [
                text for item in row if item for text in ([item] if isinstance(item, str) else item)
            ]
            for word in {word for text in texts for word in words_in(text)}:
                found.append((number.setdefault(word, len(number)), feature, 1))
        return np.array(sorted(found), np.int64).reshape(-1, 3).T

    def _shown(self, contexts: Contexts, number: dict[str, int]) -> Int[np.ndarray, "3 n"]:
        """Words of contexts: (word, feature, whether it fires on a token of the word)."""
        self._borders = np.hstack(
            [self._borders, _borders(self.spelling.texts[self._borders.shape[1] :])]
        )
        has_text, begins_word, ends_word, has_word = self._borders
        shown, context = (
            has_text[contexts.tokens],
            np.repeat(np.arange(len(contexts.table)), contexts.lengths),
        )
        active = self._active(contexts, np.flatnonzero(shown))
        tokens, feature, shown_in = (
            of[shown] for of in (contexts.tokens, contexts.feature, context)
        )
        apart = np.ones(len(tokens), bool)
        apart[1:] = (np.diff(shown_in) > 0) | ~(ends_word[tokens[:-1]] & begins_word[tokens[1:]])
        starts = np.flatnonzero(apart)
        if not len(starts):
            return np.zeros((3, 0), np.int64)
        worded = np.maximum.reduceat(has_word[tokens].astype(np.int64), starts) > 0
        ends = np.append(starts[1:], len(tokens))
        starts, ends = starts[worded], ends[worded]
        if not len(starts):
            return np.zeros((3, 0), np.int64)
        _, one, run = np.unique(
            _hashes(tokens, starts, ends), return_index=True, return_inverse=True
        )
        spelled = [list(self._spelled(tokens[starts[i] : ends[i]], number)) for i in one]
        lengths = np.array([len(words) for words in spelled], np.int64)
        flat = np.array([word for words in spelled for word in words], np.int64).reshape(-1, 3)
        times = lengths[run]
        first = (np.cumsum(lengths) - lengths)[run]
        within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        word, begin, end = flat[np.repeat(first, times) + within].T
        at, n_active = np.repeat(starts, times), np.concatenate([[0], np.cumsum(active)])
        fires = n_active[at + end] > n_active[at + begin]
        return np.stack([word, feature[at], fires.astype(np.int64)])

    def _spelled(
        self, tokens: Int[np.ndarray, "n"], number: dict[str, int]
    ) -> Iterator[tuple[int, int, int]]:
        """The words of a run of tokens: number, and the tokens from which and up to which they are
        spelled.
        """
        texts = [self.spelling.texts[token] for token in tokens]
        ends = list(accumulate(len(text.lower()) for text in texts))
        for found in WORD.finditer("".join(texts).lower()):
            word = number.setdefault(found[0], len(number))
            yield word, bisect_right(ends, found.start()), bisect_left(ends, found.end()) + 1

    def _active(self, contexts: Contexts, shown: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
        """Whether the feature fires on each token with a text, or on one before it that has a part
        of its character.
        """
        active = contexts.values > 0
        parts = np.flatnonzero(active & (contexts.tokens == self.spelling.part))
        active[shown[np.searchsorted(shown, parts)]] = (
            True  # a part has a token after it that ends the character
        )
        return active[shown]

    def write(self) -> None:
        """Write the files of all buckets, empty ones too."""
        stored = [
            (
                base.with_suffix(".txt"),
                np.load(base.with_suffix(".npy"), mmap_mode="r"),
                np.concatenate([[0], np.cumsum(np.load(base.with_suffix(".counts.npy")))]),
                words,
                characters,
            )
            for base, words, characters in self._layers
        ]
        for b in range(self.buckets):
            parts: dict[str, list[np.ndarray]] = {}
            for text, postings, ends, words, characters in stored:
                with open(text, "rb") as file:
                    file.seek(int(characters[b]))
                    names = (
                        file.read(int(characters[b + 1] - characters[b])).decode().split("\n")[:-1]
                    )
                edges = ends[words[b] : words[b + 1] + 1]
                of_words = np.asarray(postings[edges[0] : edges[-1]])
                for name, begin, end in zip(
                    names, edges - edges[0], edges[1:] - edges[0], strict=False
                ):
                    parts.setdefault(name, []).append(of_words[begin:end])
            names = sorted(parts)
            write_data(
                self.folder,
                f"words/{self.model}-{b}",
                {"words": names, "rows": _coded([parts[n] for n in names])},
            )


def _coded(words: list[list[np.ndarray]]) -> list[str]:
    """The postings of words as base64, each from parts in the order of rows."""
    if not words:
        return []
    ends = np.cumsum([sum(map(len, parts)) for parts in words])
    postings = np.concatenate([part for parts in words for part in parts]).astype(np.int64)
    rows = postings >> 1
    steps = np.diff(rows, prepend=-1)
    steps[ends[:-1]] = rows[ends[:-1]] + 1  # each word counts from -1
    coded, sizes = leb128(2 * steps + (postings & 1))
    cuts = np.concatenate([[0], np.cumsum(sizes)[ends - 1]]).tolist()
    return [base64.b64encode(coded[i:j].tobytes()).decode() for i, j in pairwise(cuts)]


def leb128(
    numbers: Int[np.ndarray, "n"],
) -> tuple[UInt8[np.ndarray, "bytes"], Int[np.ndarray, "n"]]:
    """Numbers from 0 in groups of seven bits, the lowest first, all but a number's last with the
    eighth bit set.

    Returns the bytes of all, and how many each takes.
    """
    sizes = np.maximum(1, -(-np.frexp(numbers.astype(np.float64))[1] // 7)).astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    out = np.zeros(int(sizes.sum()), np.uint8)
    for group in range(int(sizes.max(initial=0))):
        has = sizes > group
        more = (sizes[has] > group + 1) << 7
        out[starts[has] + group] = ((numbers[has] >> (7 * group)) & 127) | more
    return out, sizes


def _borders(texts: Sequence[str]) -> Bool[np.ndarray, "4 texts"]:
    """Whether each has any character, its first and its last lie in words that run on, and it has
    any word.
    """
    runs = re.compile(rf"[^\W{_ALONE}]")
    found = [
        (
            bool(text),
            bool(runs.match(text[:1])),
            bool(runs.match(text[-1:])),
            bool(WORD.search(text)),
        )
        for text in texts
    ]
    return np.array(found, bool).reshape(-1, 4).T


def _hashes(
    tokens: Int[np.ndarray, "n"], starts: Int[np.ndarray, "runs"], ends: Int[np.ndarray, "runs"]
) -> np.ndarray:
    """64-bit hashes of runs of tokens: the sum of mixed ids, each times an odd number to the power
    of its place.
    """
    lengths = ends - starts
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    mixed = (
        tokens[np.repeat(starts, lengths) + within].astype(np.uint64) + np.uint64(1)
    ) * _MULTIPLIER
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(int(lengths.max()), _MULTIPLIER, np.uint64))
    return np.add.reduceat(mixed * powers[within], np.cumsum(lengths) - lengths)
