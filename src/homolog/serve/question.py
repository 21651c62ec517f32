"""What the page of a prompt may ask, checked before any model sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import Field, StrictFloat, StrictInt, StrictStr, field_validator, model_validator

from homolog.errors import InputError, require_one_of
from homolog.record.settings import Settings

MOST_CHARACTERS = 2000
MOST_TOKENS = 256
"""Of a text, by the tokenizer of either model."""
MOST_TIMES = 20.0
"""A feature's activation is multiplied by this at most."""
MOST_VALUE = 1e6

Asked = TypeVar("Asked", bound="Question")


class Question(Settings):
    """A text, read by the two models of a pair."""

    text: StrictStr
    """Half a character (a lone surrogate) becomes U+FFFD, as browsers show it."""

    pair: StrictInt = Field(0, ge=0)
    """Place of the pair among those of the run."""

    @field_validator("text")
    @classmethod
    def _whole(cls, text: str) -> str:
        if not text:
            raise InputError("text", text, "there must be something to read", "Write a sentence.")
        if len(text) > MOST_CHARACTERS:
            requirement = f"it may have {MOST_CHARACTERS:,} characters at most"
            raise InputError("text", f"{len(text):,} characters", requirement, "Shorten it.")
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    @classmethod
    def asked(cls: type[Asked], values: Any) -> Asked:
        """From JSON values.  InputError names what cannot be."""
        if not isinstance(values, Mapping):
            kind = type(values).__name__
            raise InputError("question", kind, "it must be a JSON object", "Send one.")
        for name in values:
            require_one_of("question", name, cls.model_fields)
        return cls.parse(values)


class Change(Question):
    """The same with one feature of one of the models changed: by a factor, or to a value."""

    model: StrictStr
    """Its name."""

    layer: StrictInt
    """Its block."""

    feature: StrictInt
    """Of the dictionary there."""

    token: StrictInt | None = None
    """Place of the token where it is changed; none: at every token."""

    times: StrictFloat | None = Field(None, ge=-MOST_TIMES, le=MOST_TIMES)
    """What its activation is multiplied by: 0 takes it out, 1 leaves it."""

    value: StrictFloat | None = Field(None, ge=-MOST_VALUE, le=MOST_VALUE)
    """What its activation becomes."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Change:
        if (self.times is None) == (self.value is None):
            given = {"times": self.times, "value": self.value}
            raise InputError("times", given, "one of times and value is needed", "Give one.")
        return self
