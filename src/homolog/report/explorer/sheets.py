"""The text that contexts show, each window of it once: data/text/NUMBER-FILE.js.

Thousands of features show pieces of the same windows.  A sheet has the tokens of a document in a
window at their places, as far as any context shows them, and a context says on which sheet it
stands, where it starts and how long it is.  Where one says otherwise than what stands there
already, as at the edge of a character of several tokens (contexts.py), it goes to a further sheet
of its window.

A file has sheets of some `TOKENS_PER_FILE`, the tokens as numbers into the texts that occur there,
and the document of each sheet.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int, Int32

from homolog.report.explorer.contexts import Contexts, Spelling
from homolog.report.explorer.packing import smallest, write_data

TOKENS_PER_FILE = 2**14
_BLANK, _BITS = -1, 32
_DOCUMENT = 2**_BITS - 1


class Sheets:
    """The sheets of one text, which models with one tokenizer share.

    Memory: four bytes per token of the text.
    """

    def __init__(self, spelling: Spelling) -> None:
        self.spelling = spelling
        self._of: dict[tuple[int, int], int] = {}
        """By `_windows`, and how many others of its sheets come before."""
        self._codes: Int32[np.ndarray, "sheets width"] = np.empty((0, 0), np.int32)

    def lay(self, contexts: Contexts) -> Contexts:
        """The contexts with the sheet of each, as a column of their table."""
        window, start = _windows(contexts.table), contexts.table["start"].to_numpy()
        begins, lengths = contexts.ends[:-1], contexts.lengths
        place = np.arange(len(contexts.tokens)) - np.repeat(begins - start, lengths)
        sheet = np.zeros(len(window), np.int64)
        left, before = np.arange(len(window)), 0
        while len(left):
            sheet[left] = self._sheets(window[left], before, int(place.max()) + 1)
            of_left = np.repeat(np.isin(np.arange(len(window)), left), lengths)
            at = (np.repeat(sheet, lengths)[of_left], place[of_left])
            agrees = self._write(at, contexts.tokens[of_left])
            first = np.cumsum(lengths[left]) - lengths[left]
            left, before = left[~np.logical_and.reduceat(agrees, first)], before + 1
        return replace(contexts, table=contexts.table.with_columns(sheet=pl.Series(sheet)))

    def _sheets(
        self, windows: Int[np.ndarray, "contexts"], before: int, width: int
    ) -> Int[np.ndarray, "contexts"]:
        """The sheet of each window that has `before` others before it, at least `width` wide."""
        distinct, which = np.unique(windows, return_inverse=True)
        of = [self._of.setdefault((w, before), len(self._of)) for w in distinct.tolist()]
        sheets, wide = self._codes.shape
        more = ((0, len(self._of) - sheets), (0, max(width - wide, 0)))
        self._codes = np.pad(self._codes, more, constant_values=_BLANK)
        return np.array(of)[which]

    def _write(self, at: tuple[np.ndarray, ...], tokens: Int[np.ndarray, "n"]) -> np.ndarray:
        """Write where nothing stands yet, the first of several; whether each stands there now."""
        blank = self._codes[at] == _BLANK
        sheet, place = (index[blank][::-1] for index in at)
        self._codes[sheet, place] = tokens[blank][::-1]
        return self._codes[at] == tokens

    def write(self, folder: Path, number: int) -> dict[str, Any]:
        """Write the files; returns what the page is told: number, width, and sheets per file."""
        sheets, width = self._codes.shape
        per_file = max(1, TOKENS_PER_FILE // max(width, 1))
        documents = np.array([window & _DOCUMENT for window, _ in self._of], np.int64)
        for file, first in enumerate(range(0, sheets, per_file)):
            codes = self._codes[first : first + per_file].ravel()
            used, tokens = np.unique(np.maximum(codes, 0), return_inverse=True)
            texts = [self.spelling.texts[code] for code in used.tolist()]
            of_sheets = smallest(documents[first : first + per_file])
            value = {"texts": texts, "tokens": smallest(tokens), "documents": of_sheets}
            write_data(folder, f"text/{number}-{file}", value)
        return {"number": number, "width": width, "sheets": per_file}


def _windows(contexts: pl.DataFrame) -> Int[np.ndarray, "contexts"]:
    """The window and the document of each context as one number, in whose lower half the document
    is.
    """
    window, document = (contexts[name].cast(pl.Int64).to_numpy() for name in ("window", "document"))
    return (window << _BITS) | document
