"""The text index: which features show a word in their contexts, top tokens or explanation.

A word is a longest run of letters, digits and underscores, in lower case; a Chinese character or
Japanese kana is one by itself.  Words run over the borders of tokens, and so do characters.  The
words of a model stand in order in files of some `ROWS_PER_FILE`; a file has

    words     in order
    counts    of each word the rows whose feature fires on a token that spells it, then the number
              of those that only show it
    gaps      these rows, list after list: the first of each, and the steps from there (septets)

and the manifest has the first word of each file, so that a search by the beginning of a word loads
the files that may have it and no other.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from heapq import merge
from itertools import accumulate, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from homolog.report.explorer.contexts import Contexts
from homolog.report.explorer.packing import septets, smallest, write_data

ROWS_PER_FILE = 2**16
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")


def words_in(text: str) -> list[str]:
    """The words of a text, in lower case, in order."""
    return WORD.findall(text.lower())


class WordIndex:
    """Gathers the words of a model layer by layer and writes data/words/MODEL-NUMBER.js.

    Memory: the words of one layer, then those of one file; until then they stand in files of
    `scratch`, one per layer: a line per word in order, of the word, the rows that fire on it, and
    those that only show it.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self._borders = _borders([])
        self._layers: list[Path] = []

    def add_layer(self, first_row: int, features: pl.DataFrame, contexts: Contexts | None) -> None:
        """Add a layer whose feature 0 is at `first_row`; layers come in ascending order of rows."""
        number: dict[str, int] = {}
        parts = [_described(features, number)]
        if contexts is not None and len(contexts.tokens):
            parts.append(self._shown(contexts, number))
        word, feature, fires = np.concatenate(parts, axis=1)
        columns = {"number": word.astype(np.uint32), "row": (first_row + feature).astype(np.uint32)}
        once_each = (
            pl.DataFrame({**columns, "fires": fires > 0})
            .sort("number", "row", "fires")
            .unique(["number", "row"], keep="last", maintain_order=True)
        )
        firing = once_each.filter("fires").group_by("number").agg(firing="row")
        showing = once_each.filter(~pl.col("fires")).group_by("number").agg(showing="row")
        rows = firing.join(showing, on="number", how="full", coalesce=True)
        words = pl.Series("word", list(number), dtype=pl.String).gather(rows["number"])
        text = pl.col("firing", "showing").cast(pl.List(pl.String)).list.join(",")
        self._layers.append(self.scratch / f"{len(self._layers)}.tsv")
        rows.select(words, text).sort("word").write_csv(
            self._layers[-1], include_header=False, separator="\t", quote_style="never"
        )

    def write(self, folder: Path, model: int) -> list[str]:
        """Write the files of the model; returns the first word of each."""
        firsts = []
        for words, lists in _filled(self._words()):
            write_data(folder, f"words/{model}-{len(firsts)}", _file(words, lists))
            firsts.append(words[0])
        return firsts

    def _words(self) -> Iterator[tuple[str, list[str]]]:
        """Every word, in order, with the rows that fire on it and those that show it."""
        with ExitStack() as stack:
            files = [stack.enter_context(open(path, encoding="utf-8")) for path in self._layers]
            layers = [(line.rstrip("\n").split("\t") for line in file) for file in files]
            in_order = merge(*layers, key=itemgetter(0))
            for word, of_layers in groupby(in_order, key=itemgetter(0)):
                _, *rows = zip(*of_layers, strict=True)
                yield word, [",".join(filter(None, parts)) for parts in rows]

    def _shown(self, contexts: Contexts, number: dict[str, int]) -> Int[np.ndarray, "3 n"]:
        """Words of contexts: (word, feature, whether it fires on a token of the word)."""
        new = contexts.spelling.texts[self._borders.shape[1] :]
        self._borders = np.hstack([self._borders, _borders(new)])
        has_text, begins_word, ends_word, has_word = self._borders
        shown = has_text[contexts.tokens]
        active = _active(contexts, np.flatnonzero(shown))
        context = np.repeat(np.arange(len(contexts.table)), contexts.lengths)[shown]
        tokens, feature = contexts.tokens[shown], contexts.feature[shown]
        if not len(tokens):
            return np.zeros((3, 0), np.int64)
        apart = np.ones(len(tokens), bool)
        apart[1:] = (np.diff(context) > 0) | ~(ends_word[tokens[:-1]] & begins_word[tokens[1:]])
        starts = np.flatnonzero(apart)
        ends = np.append(starts[1:], len(tokens))
        worded = np.logical_or.reduceat(has_word[tokens], starts)
        starts, ends = starts[worded], ends[worded]
        run, distinct = _numbered(tokens, starts, ends)
        texts = contexts.spelling.texts
        spelled, lengths = [], np.zeros(len(distinct), np.int64)
        for i, raw in enumerate(distinct):
            words = _spelled([texts[token] for token in np.frombuffer(raw, tokens.dtype)], number)
            spelled += words
            lengths[i] = len(words)
        flat = np.array(spelled, np.int64).reshape(-1, 3)
        times = lengths[run]
        first = (np.cumsum(lengths) - lengths)[run]
        within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        word, begin, end = flat[np.repeat(first, times) + within].T
        at, n_active = np.repeat(starts, times), np.concatenate([[0], np.cumsum(active)])
        fires = n_active[at + end] > n_active[at + begin]
        return np.stack([word, feature[at], fires.astype(np.int64)])


def _described(features: pl.DataFrame, number: dict[str, int]) -> Int[np.ndarray, "3 n"]:
    """Words of explanations and top tokens: (word, feature, 1)."""
    names = [name for name in ("explanation", "top_tokens") if name in features.columns]
    words = {
        (number.setdefault(word, len(number)), feature, 1)
        for feature, row in enumerate(features.select(names).iter_rows() if names else ())
        for said in row
        for text in ([said] if isinstance(said, str) else said or ())
        for word in words_in(text)
    }
    return np.array(sorted(words), np.int64).reshape(-1, 3).T


def _spelled(texts: Sequence[str], number: dict[str, int]) -> list[tuple[int, int, int]]:
    """The words of a run of tokens: number, and from and up to which token each is spelled."""
    ends = list(accumulate(len(text.lower()) for text in texts))
    return [
        (
            number.setdefault(match[0], len(number)),
            bisect_right(ends, match.start()),
            bisect_left(ends, match.end()) + 1,
        )
        for match in WORD.finditer("".join(texts).lower())
    ]


def _active(contexts: Contexts, shown: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Whether the feature fires on each token with a text, or on a part of its character."""
    active = contexts.values > 0
    parts = np.flatnonzero(active & (contexts.tokens == contexts.spelling.part))
    # A part has a token after it that ends the character.
    active[shown[np.searchsorted(shown, parts)]] = True
    return active[shown]


def _numbered(
    tokens: Int[np.ndarray, "n"], starts: Int[np.ndarray, "runs"], ends: Int[np.ndarray, "runs"]
) -> tuple[Int[np.ndarray, "runs"], dict[bytes, int]]:
    """The number of each run of tokens among the distinct ones, and those as bytes in order."""
    raw, width = tokens.tobytes(), tokens.itemsize
    numbers: dict[bytes, int] = {}
    run = [
        numbers.setdefault(raw[begin:end], len(numbers))
        for begin, end in zip((width * starts).tolist(), (width * ends).tolist(), strict=True)
    ]
    return np.array(run, np.int64), numbers


def _filled(entries: Iterable[tuple[str, list[str]]]) -> Iterator[tuple[list[str], list[str]]]:
    """The words and lists of files of `ROWS_PER_FILE` or a little more."""
    words, lists, size = list[str](), list[str](), 0
    for word, rows in entries:
        words.append(word)
        lists += rows
        size += sum(map(_length, rows))
        if size >= ROWS_PER_FILE:
            yield words, lists
            words, lists, size = [], [], 0
    if words:
        yield words, lists


def _file(words: list[str], lists: list[str]) -> dict[str, Any]:
    """A file of the index."""
    counts = np.array([_length(rows) for rows in lists])
    rows = np.fromstring(",".join(filter(None, lists)), np.int64, sep=",")
    gaps = np.diff(rows, prepend=0)
    begins = (np.cumsum(counts) - counts)[counts > 0]
    gaps[begins] = rows[begins]
    return {"words": words, "counts": smallest(counts), "gaps": septets(gaps)}


def _length(rows: str) -> int:
    """How many numbers the list has."""
    return rows.count(",") + 1 if rows else 0


def _borders(texts: Sequence[str]) -> Bool[np.ndarray, "4 texts"]:
    """Whether each has any text, begins and ends within words that run on, and has any word."""
    runs = re.compile(rf"[^\W{_ALONE}]")
    borders = [
        (
            bool(text),
            *(bool(runs.match(end)) for end in (text[:1], text[-1:])),
            bool(WORD.search(text)),
        )
        for text in texts
    ]
    return np.array(borders, bool).reshape(-1, 4).T
