"""What the tokens of contexts show, as codes into one list of texts.

A token that is text by itself is its own code.  Tokens that are parts of characters show what they
and their neighbours make (`corpus.token_text.joined`): those texts come after the vocabulary's,
each once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from homolog.corpus import TokenText, alone, joined


class Spelling:
    """The texts of a vocabulary, and those that its tokens make together in the contexts seen so
    far.
    """

    def __init__(self, vocabulary: Sequence[TokenText]) -> None:
        self.vocabulary = vocabulary
        self.texts = [alone(token) for token in vocabulary]
        self.part = self._code("")
        """Code of a token that shows nothing: it begins a character that ends at a later one."""

        self._is_part = np.array([not isinstance(token, str) for token in vocabulary], bool)
        self._of_run: dict[tuple[int, ...], list[int]] = {}
        self._of_text: dict[str, int] = {"": self.part}

    def _code(self, text: str) -> int:
        self.texts.append(text)
        return len(self.texts) - 1

    def codes(
        self, tokens: Int[np.ndarray, "n"], ends: Int[np.ndarray, "contexts_1"]
    ) -> Int[np.ndarray, "n"]:
        """The code of each token of contexts that begin and end at `ends`; characters stay within
        one context.
        """
        at = np.flatnonzero(self._is_part[tokens])
        if not len(at):
            return tokens
        begins = np.zeros(len(tokens) + 1, bool)
        begins[ends] = True
        apart = np.flatnonzero((np.diff(at) > 1) | begins[at[1:]]) + 1
        codes = tokens.copy()
        for run in np.split(at, apart):
            codes[run] = self._run(tuple(tokens[run].tolist()))
        return codes

    def _run(self, ids: tuple[int, ...]) -> list[int]:
        if ids not in self._of_run:
            found = joined([self.vocabulary[i] for i in ids])
            for text in found:
                if text not in self._of_text:
                    self._of_text[text] = self._code(text)
            self._of_run[ids] = [self._of_text[text] for text in found]
        return self._of_run[ids]
