"""How a tokenizer cuts the texts of a task, and which words are one token where they stand.

Names, places, things and two-digit years must each be one token in their text, so that all prompts
of a task have one length and positions mean the same in all.  Words that are split are left out;
too few left is an error that shows the split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from homolog.corpus.token_text import alone, token_texts
from homolog.corpus.tokenizers import special_ids
from homolog.errors import InputError

OWN_PAIRS = "Use another model, or give your own pairs as JSONL."


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens at its ends."""
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def encode_prompts(tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """Token ids (prompt, position).  InputError, with an example, where lengths differ."""
    ids = encode(tokenizer, texts)
    length = commonest(map(len, ids))
    for text, own in zip(texts, ids, strict=True):
        if len(own) != length:
            requirement = f"it has {len(own)} tokens and the others have {length}"
            raise InputError("prompt", text, requirement, OWN_PAIRS)
    return torch.tensor(ids, dtype=torch.int64)


def commonest(lengths: Iterable[int]) -> int:
    """The length that most prompts have; of several the first."""
    return Counter(lengths).most_common(1)[0][0]


def single_tokens(
    tokenizer: Any, words: Sequence[str], after: str, what: str, *, at_least: int = 1
) -> dict[str, int]:
    """Token of each word that is one token after the text `after` and a space.

    Other words are left out.  Raises `InputError` when fewer than `at_least` are left, with a word
    that was split, into which tokens.
    """
    tokens = {word: continuation(tokenizer, after, f" {word}") for word in words}
    kept = {word: ids[0] for word, ids in tokens.items() if len(ids) == 1}
    if len(kept) < at_least:
        split = next((word for word, ids in tokens.items() if len(ids) != 1), None)
        example = f"there are {len(words)} in all"
        if split is not None:
            example = f"it reads {shown(tokenizer, f' {split}')}"
        needed = f"the tokenizer must have {at_least} or more {what}s as one token each"
        requirement = f"{needed} and has {len(kept)}: {example}"
        raise InputError(what, split if split is not None else list(words), requirement, OWN_PAIRS)
    return kept


def continuation(tokenizer: Any, text: str, more: str) -> list[int]:
    """Tokens that `more` adds to `text`.

    [] where it changes the tokens of `text`, or adds unknown or special ones.
    """
    before, whole = encode(tokenizer, [text, text + more])
    added = whole[len(before) :]
    outside = {*special_ids(tokenizer), tokenizer.unk_token_id}
    return added if whole[: len(before)] == before and not set(added) & outside else []


def shown(tokenizer: Any, text: str) -> str:
    """The tokens of a text, for messages: ' J' + 'ohn'."""
    (ids,), texts = encode(tokenizer, [text]), token_texts(tokenizer)
    return f"{text!r} as " + " + ".join(repr(alone(texts[token])) for token in ids)
