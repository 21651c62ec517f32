"""The text of dictionaries on their own: what is held out, and how the same tokens are found again
from the file.

    windows   the documents, in random order unless asked otherwise, packed; of the first `n_first`
              windows, `n_heldout` drawn at random are held out, all others are trained on

Which are held out depends on neither the length of the training nor what follows, so that
evaluating a dictionary on tokens that it never saw reads no more of a long text than those first
windows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from homolog.corpus import TokenWindows, pack, read_documents
from homolog.dictionaries.seeds import generator
from homolog.errors import InputError

SPREAD = 32
"""Held-out windows are drawn from so many times their number, so that they come from many
documents.
"""


@dataclass(frozen=True)
class Text:
    """Where text comes from and which windows of it are held out; stored with every dictionary."""

    source: str
    field: str = "text"
    split: str = "train"
    context: int = 128
    shuffle: bool = True
    seed: int = 0
    n_first: int = 0
    n_heldout: int = 0
    heldout_hash: str = ""
    """`TokenWindows.hash` of what is held out."""

    def facts(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def read_text(text: Text, tokenizer: Any, n_tokens: int) -> TokenWindows:
    """The first windows of the text with so many tokens in all, or fewer where it has no more."""
    documents = read_documents(
        text.source, field=text.field, split=text.split, shuffle=text.shuffle, seed=text.seed
    )
    return pack(documents, tokenizer, text.context, n_tokens=n_tokens, fewer=True)


def hold_out(
    whole: TokenWindows, text: Text, heldout_tokens: int
) -> tuple[TokenWindows, TokenWindows, Text]:
    """(held out, to train on, the text with which windows those are).

    Raises InputError where less than half would be left to train on, or where one of both holds
    masked tokens alone.
    """
    n_heldout = -(-heldout_tokens // whole.context)
    if 2 * n_heldout > len(whole):
        raise InputError(
            "--text",
            text.source,
            f"it has {whole.n_tokens} tokens; {heldout_tokens} are held out, and as many must be "
            "left to train on",
            "Give more text, or a smaller --heldout.",
        )
    n_first = min(len(whole), SPREAD * n_heldout)
    chosen = _draw(text.seed, n_first, n_heldout)
    rest = np.setdiff1d(np.arange(len(whole)), chosen)
    heldout = whole[chosen]
    heldout.require_unmasked(f"held-out windows of {text.source}")
    whole[rest].require_unmasked(f"training windows of {text.source}")
    known = {"n_first": n_first, "n_heldout": n_heldout, "heldout_hash": heldout.hash}
    return heldout, whole[rest], Text(**text.facts() | known)


def heldout_again(text: Text, tokenizer: Any) -> TokenWindows:
    """What was held out when the dictionary was trained.  Raises InputError where the text is no
    longer the same.
    """
    whole = read_text(text, tokenizer, text.n_first * text.context)
    heldout = (
        whole[_draw(text.seed, text.n_first, text.n_heldout)]
        if len(whole) == text.n_first
        else None
    )
    if heldout is None or heldout.hash != text.heldout_hash:
        raise InputError(
            "text",
            text.source,
            "it is not the text that the dictionary was trained on, or it is tokenised otherwise",
            "Give --text, and know that the dictionary may have been trained on it.",
        )
    return heldout


def _draw(seed: int, n_first: int, n_heldout: int) -> np.ndarray:
    return np.sort(generator(seed, "held out", n_first).permutation(n_first)[:n_heldout])
