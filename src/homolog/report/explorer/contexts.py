"""The contexts of a layer, and what their tokens show.

What tokens show is kept as codes into one list of texts.  A token that is text by itself is its own
code.  Tokens that are parts of characters show what they and their neighbours make
(`corpus.token_text.joined`): those texts come after the vocabulary's, each once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from homolog.corpus import TokenText, alone, joined
from homolog.errors import InputError

TOKENS, VALUES = "tokens", "values"
WHERE = ("window", "document", "start", "position")
SHOWN = ("feature", "quantile", "value", *WHERE)


class Spelling:
    """The texts of a vocabulary, and those that its tokens made together in contexts so far."""

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
        """The code of each token of contexts that begin and end at `ends`.

        Characters stay within one context.
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
            texts = joined([self.vocabulary[i] for i in ids])
            for text in texts:
                if text not in self._of_text:
                    self._of_text[text] = self._code(text)
            self._of_run[ids] = [self._of_text[text] for text in texts]
        return self._of_run[ids]


@dataclass(frozen=True)
class Contexts:
    """The contexts of a layer in the order shown, and their tokens one after the other.

    table: one row per context, of `SHOWN` and its length; ends: (contexts + 1,) where the tokens of
    each begin and end; tokens: (n,) what they show, as codes of `spelling`; values: (n,)
    activations; feature: (n,) whose context it is.
    """

    table: pl.DataFrame
    ends: Int[np.ndarray, "contexts_1"]
    tokens: Int[np.ndarray, "n"]
    values: Float[np.ndarray, "n"]
    feature: Int[np.ndarray, "n"]
    spelling: Spelling

    @property
    def lengths(self) -> Int[np.ndarray, "contexts"]:
        """Tokens of each context."""
        return np.diff(self.ends)


def read_contexts(table: pl.DataFrame, n_features: int, spelling: Spelling) -> Contexts:
    """The contexts of a layer, the strongest first, whose token ids are of `spelling`'s vocabulary.

    Raises `InputError` for missing columns, features or tokens that do not exist, and lists of
    unequal lengths.
    """
    if not _fits(table, n_features, len(spelling.vocabulary)):
        needed = f"each needs {', '.join((*SHOWN, TOKENS, VALUES))}"
        requirement = (
            f"{needed}, as many values as tokens, and places, features and tokens that exist"
        )
        remedy = "Make them anew for these dictionaries and this tokenizer."
        raise InputError("contexts", ", ".join(table.columns), requirement, remedy)
    length = pl.col(TOKENS).list.len()
    rank = ["rank"] if "rank" in table.columns else []
    order = ["feature", "quantile", *rank, "value", "document", "position"]
    falling = [name in ("quantile", "value") for name in order]
    table = table.filter(length > 0).sort(order, descending=falling, maintain_order=True)
    lengths = table[TOKENS].list.len().to_numpy().astype(np.int64)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    tokens, values = (table[name].explode().to_numpy() for name in (TOKENS, VALUES))
    return Contexts(
        table.select(*SHOWN, length=length),
        ends,
        spelling.codes(tokens.astype(np.int64), ends),
        values.astype(np.float32),
        np.repeat(table["feature"].to_numpy().astype(np.int64), lengths),
        spelling,
    )


def _fits(table: pl.DataFrame, n_features: int, n_tokens: int) -> bool:
    if not {*SHOWN, TOKENS, VALUES} <= set(table.columns):
        return False
    whole = table.filter(pl.col(TOKENS).list.len() > 0)
    tokens, values = whole[TOKENS], whole[VALUES]
    return (
        tokens.list.len().equals(values.list.len(), null_equal=True)
        and _below(tokens.explode(), n_tokens)
        and _below(whole["feature"], n_features)
        and all(_below(whole[name], 2**31) for name in WHERE)
    )


def _below(numbers: pl.Series, bound: int) -> bool:
    """Whether all are whole numbers of 0 to bound - 1."""
    if numbers.is_empty():
        return True
    whole = numbers.dtype.is_integer() and not numbers.has_nulls()
    return whole and bool(numbers.cast(pl.Int64).is_between(0, bound - 1).all())
