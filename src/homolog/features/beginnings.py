"""Does a model read text as it was trained to, or does it miss a token at the beginning?

Windows are cut from a stream of documents, and most begin in the middle of one.  A model that has
learnt to begin with a token of its own ("<bos>"), and rests its attention on it, then predicts much
worse than it can.  Of a sample:

    without   mean next-token loss of windows t_0 ... t_(n-2)
    with      the same of windows b t_0 ... t_(n-2),   over the same tokens t_1 ... t_(n-2)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from homolog.corpus import TokenWindows
from homolog.features.splicing import clean_loss
from homolog.models import LanguageModel

SAMPLE_TOKENS = 2048
LEAST_DIFFERENCE = 0.5  # nats


@dataclass(frozen=True)
class Beginning:
    """The token that a tokenizer puts first, and its worth: mean losses in nats per token."""

    token: str
    without: float
    with_it: float

    @property
    def is_missed(self) -> bool:
        """Whether the model reads much better with it."""
        return self.without - self.with_it > LEAST_DIFFERENCE

    def words(self, name: str) -> str:
        """For people."""
        return (
            f"{name} predicts text at {self.with_it:.2f} nats a token where windows begin with "
            f"{self.token!r}, as its tokenizer has it, and at {self.without:.2f} without; here "
            "they are read without, so that all numbers are of a model that misses its beginning"
        )


def beginning_id(tokenizer: Any) -> int | None:
    """The token that the tokenizer puts before a text, else its beginning of text, else None."""
    plain = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a", add_special_tokens=True)
    if len(whole) > len(plain) and whole[: len(plain)] != plain:
        return int(whole[0])
    return tokenizer.bos_token_id


def measure_beginning(model: LanguageModel, windows: TokenWindows) -> Beginning | None:
    """Losses without and with the beginning on the first windows; None where there is no token."""
    tokenizer: Any = model.tokenizer
    first = beginning_id(tokenizer)
    if first is None:
        return None
    sample = windows[: max(1, SAMPLE_TOKENS // windows.context)]
    without = TokenWindows(sample.tokens[:, :-1], sample.document[:, :-1], sample.mask[:, :-1], "")
    tokens, mask = np.roll(sample.tokens, 1, axis=1), np.roll(sample.mask, 1, axis=1)
    tokens[:, 0] = first
    mask[:, :2] = False  # neither the beginning nor t_0 is counted
    begun = TokenWindows(tokens, sample.document, mask, "")
    losses = (clean_loss(model, text) for text in (without, begun))
    return Beginning(str(tokenizer.convert_ids_to_tokens(first)), *losses)
