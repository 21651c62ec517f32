"""How a tokenizer cuts the texts of a task, and which words are one token where they stand.

Names, places, things and two-digit years must each be one token in their text, so that all prompts
of a task have one length and positions mean the same in all.  Words that are split are left out,
which the prompts say (`PromptPairs.dropped`); too few left is an error that shows the split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
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


@dataclass(frozen=True)
class Words:
    """Words that are one token where a prompt has them.

    tokens   of each such word
    space    what stands between the text before it and the word, as a token of its own or more:
             "" where the word's token begins with the space, as most tokenizers have it
    dropped  the words that are split
    """

    tokens: dict[str, int]
    space: str
    dropped: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def all(self) -> list[str]:
        """The words that are left."""
        return list(self.tokens)


def single_tokens(
    tokenizer: Any, words: Sequence[str], after: str, what: str, *, at_least: int = 1
) -> Words:
    """Those of the words that are one token after the text `after`.

    As " word", the space included, or else, where fewer than `at_least` are, as "word" after a
    space that is a token of the text.  Raises `InputError` when too few are one token either way:
    it names the tokenizer, how many are left, and a word that was split, into which tokens.
    """
    spaced, apart = (_single(tokenizer, words, after, *way) for way in ((" ", ""), ("", " ")))
    kept = apart if len(spaced) < at_least <= len(apart) else spaced
    if len(kept) >= at_least:
        return kept
    example = f"it reads {shown(tokenizer, f' {kept.dropped[0]}')}" if kept.dropped else "no more"
    name = name_of(tokenizer)
    needed = f"the tokenizer {name} must have {at_least} or more {what}s as one token each"
    requirement = f"{needed} and has {len(kept)} of {len(words)}: {example}"
    value = kept.dropped[0] if kept.dropped else list(words)
    raise InputError(what, value, requirement, OWN_PAIRS)


def _single(tokenizer: Any, words: Sequence[str], after: str, joined: str, space: str) -> Words:
    """The words as one token: `joined` begins it, `space` ends the text before it."""
    added = {word: continuation(tokenizer, after + space, joined + word) for word in words}
    tokens = {word: ids[0] for word, ids in added.items() if len(ids) == 1}
    return Words(tokens, space, tuple(word for word in words if word not in tokens))


def name_of(tokenizer: Any) -> str:
    """What a tokenizer is called in messages: of a folder the end of its path."""
    name = str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
    return "/".join(Path(name).parts[-2:]) if Path(name).is_absolute() else name


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
