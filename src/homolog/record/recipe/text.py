"""[corpus]: the text, and how it is read and cut."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from homolog.record.settings import Settings


class TextSource(Settings):
    """How text is read and cut."""

    field: str = "text"
    """Name of the text in JSONL, Parquet and datasets."""

    split: str = "train"
    """Split of a Hugging Face dataset; other sources have none."""

    shuffle: bool = True
    """Put the documents in random order first, which holds the text of files in memory."""

    context: int = Field(default=128, ge=8)
    """Tokens of a window."""


class SinkMask(Settings):
    """Whether a model's sinks count."""

    sinks: Literal["mask", "keep"] = "mask"
    """Whether tokens with norms over 10 times the median are left out of training, statistics and
    matching where they hold more than a tenth of a layer's variance (mask), or
    not (keep).  Where no layer has such tokens, both are the same.
    """


class Corpus(TextSource, SinkMask):
    """The text that every model reads, and how much of it."""

    source: str
    """"zoo:demo" or "zoo:domains" (they ship), a .txt, .jsonl (.gz, .xz) or .parquet file, a
    folder, or "hf:ID".
    """

    train_tokens: int = Field(ge=1)
    """Tokens that the dictionaries learn from, before they are read again (`sae.epochs`)."""

    match_tokens: int = Field(ge=1)
    """Tokens over which features are correlated; never any of the training tokens."""

    neuron_tokens: int | None = Field(default=None, ge=1)
    """Tokens over which neurons are correlated, the first of the match tokens; all of them by
    default.
    """

    quality_tokens: int = Field(default=16_384, ge=1)
    """Tokens for the quality of the dictionaries, the first of the match tokens."""

    seed: int = Field(default=0, ge=0)
    """Seed of the order of documents."""
