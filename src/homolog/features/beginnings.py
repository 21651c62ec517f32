"""Does a model read text as it was trained to, or does it miss a token at the beginning?

Windows are cut from a stream of documents, and most begin in the middle of one.  A model that has
learnt to begin with a token of its own ("<bos>"), and rests its attention on it, then predicts much
worse than it can.  Of a sample:

    without   mean next-token loss of windows t_0 ... t_(n-2)
    with      the same of windows b t_0 ... t_(n-2),   over the same tokens t_1 ... t_(n-2)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from homolog.corpus import TokenWindows
from homolog.errors import InputError
from homolog.features.splicing import clean_loss
from homolog.models import LanguageModel
from homolog.models.beginning import AUTO, TRUE, known_beginning

SAMPLE_TOKENS = 2048
LEAST_DIFFERENCE = 0.5  # nats


@dataclass(frozen=True)
class Beginning:
    """The token that windows may begin with, and its worth: mean losses in nats per token.

    begins: whether windows of the model begin with it.
    """

    token: str
    begins: bool
    without: float
    with_it: float

    @property
    def is_wrong(self) -> bool:
        """Whether the model reads much better the other way."""
        gain = self.without - self.with_it
        return (-gain if self.begins else gain) > LEAST_DIFFERENCE

    def words(self, name: str) -> str:
        """For people, where it is wrong."""
        how, of = "without", "that misses its beginning"
        if self.begins:
            how, of = "with it", "that reads a beginning it does not know"
        return (
            f"{self._losses(name)}; here they are read {how}, so that all numbers are of a model "
            f"{of}"
        )

    def _losses(self, name: str) -> str:
        return (
            f"{name} predicts text at {self.with_it:.2f} nats a token where windows begin with "
            f"{self.token!r}, and at {self.without:.2f} without"
        )

    def refused(self, name: str) -> InputError:
        """For windows that are read as its tokenizer has it, where that is wrong."""
        has_it = "with it" if self.begins else "without"
        better, other = ("false", "true") if self.begins else ("true", "false")
        requirement = f"{self._losses(name)}, while its tokenizer has them {has_it}"
        remedy = f"Set bos = {better}; {other} reads it as its tokenizer has it all the same."
        return InputError("bos", AUTO, requirement, remedy)

    def facts(self) -> dict[str, Any]:
        """As JSON values: `Beginning(**facts)`."""
        return asdict(self)


def measure_beginning(model: LanguageModel, windows: TokenWindows) -> Beginning | None:
    """Losses without and with the beginning on the first windows; None where there is no token."""
    tokenizer: Any = model.tokenizer
    first = model.bos if model.bos is not None else known_beginning(tokenizer)
    if first is None:
        return None
    sample = windows[: max(1, SAMPLE_TOKENS // windows.context)]
    # of one token less, so that there is a place for the beginning wherever the windows fit
    cut = TokenWindows(sample.tokens[:, :-1], sample.document[:, :-1], sample.mask[:, :-1], "")
    ways = model.plain, model if model.bos is not None else model.begun(TRUE)
    losses = (clean_loss(way, cut) for way in ways)
    return Beginning(str(tokenizer.convert_ids_to_tokens(first)), model.bos is not None, *losses)


def checked_beginning(
    name: str, model: LanguageModel, windows: TokenWindows, bos: str
) -> Beginning | None:
    """The same, of a model that is read as the setting `bos` has it.

    InputError where that was left to the tokenizer (auto), and the model reads much better the
    other way.
    """
    beginning = measure_beginning(model, windows)
    if bos == AUTO and beginning is not None and beginning.is_wrong:
        raise beginning.refused(name)
    return beginning
