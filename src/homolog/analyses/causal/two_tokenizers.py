"""Effects of two models with different tokenizers: at ends of units, over the tokens in common.

At the end of a unit (`corpus.units`) both models have read the same text, to the byte, and the next
token of both begins at the same byte.  There the two vocabularies are compared over the texts S
that both have as a token, to the byte:

    P(s) = sum of p(v) over the tokens v of a model whose text is s       (several only where bytes
                                                                          are tokens of their own)
    q(s) = P(s) / m,     m = sum_(s in S) P(s)

q stands for p in the formulas of `effects`, with S for the vocabulary; "later" are the ends of the
up to `LATER` units that follow in the windows of both.  m is kept beside, of either model the mean
of before and after, as the weights are: a pair whose m is below `LEAST_SHARED` on a side has no
agreement (NaN), for what its features do is then mostly to tokens that only one model has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64

from homolog.analyses.stream import place_of
from homolog.corpus import TokenWindows
from homolog.corpus.token_text import TokenText

LEAST_SHARED = 0.5
SHARED = ("shared", "best_shared")
"""Of the features' model, of the partners': the mass that tokens in common hold."""
LogProbabilities = Float[torch.Tensor, "read vocabulary"]
LogTexts = Float[torch.Tensor, "read text"]
Mass = Float[torch.Tensor, " read"]


@dataclass(frozen=True, eq=False)
class Stops:
    """Places of a model's windows in the order of the text, where effects may be taken."""

    windows: TokenWindows
    window: Int64[np.ndarray, " stop"]
    position: Int64[np.ndarray, " stop"]

    @classmethod
    def at_tokens(cls, windows: TokenWindows) -> Stops:
        """Every token, special ones too."""
        return cls(windows, *np.divmod(np.arange(windows.n_tokens), windows.context))

    @classmethod
    def at_rows(cls, windows: TokenWindows, rows: np.ndarray) -> Stops:
        """Rows of the features, ascending."""
        return cls(windows, *place_of(windows, rows))


@dataclass(frozen=True, eq=False)
class TokenGroups:
    """The tokens of a vocabulary that are in common, by their text.

    ids: the first token of every text in common, in one order for both vocabularies.  others: more
    tokens of the same bytes, a (which text, id) each.
    """

    ids: Int64[np.ndarray, " text"]
    others: tuple[tuple[int, int], ...]


def tokens_in_common(
    texts: Sequence[TokenText], best_texts: Sequence[TokenText]
) -> tuple[TokenGroups, TokenGroups]:
    """The tokens of two vocabularies whose bytes both have; texts: of every id (`token_texts`)."""
    own, best = (_ids_by_bytes(side) for side in (texts, best_texts))
    common = [spelled for spelled in own if spelled in best]
    own, best = (_groups([ids[spelled] for spelled in common]) for ids in (own, best))
    return own, best


def _ids_by_bytes(texts: Sequence[TokenText]) -> dict[bytes, list[int]]:
    ids: dict[bytes, list[int]] = {}
    for i, text in enumerate(texts):
        if text and text != f"<token {i}>":  # the name of one that spells nothing known
            spelled = text.encode() if isinstance(text, str) else bytes(text)
            ids.setdefault(spelled, []).append(i)
    return ids


def _groups(ids: list[list[int]]) -> TokenGroups:
    others = tuple((text, i) for text, of_text in enumerate(ids) for i in of_text[1:])
    return TokenGroups(np.array([of_text[0] for of_text in ids], np.int64), others)


@dataclass(frozen=True, eq=False)
class TwoTokenizers:
    """Where units end in the windows of both models, and which tokens they have in common."""

    stops: tuple[Stops, Stops]
    tokens: tuple[TokenGroups, TokenGroups]


def renormalised(tokens: TokenGroups, logs: LogProbabilities) -> tuple[LogTexts, Mass]:
    """log q of the texts in common, and their mass m, from log p of all tokens."""
    sums = logs[:, torch.from_numpy(tokens.ids)]
    for text, token in tokens.others:
        sums[:, text] = torch.logaddexp(sums[:, text], logs[:, token])
    mass = sums.logsumexp(-1, keepdim=True)
    return sums - mass, mass[:, 0].exp()
