"""Indirect object identification and greater-than, written from templates and checked token by
token.

    indirect object  "Then, Ann and Bob went to the store. Bob gave a drink to" -> " Ann"        [Wang 2022]
    greater-than     "The war lasted from the year 1732 to the year 17" -> any of "33" ... "99"  [Hanna 2023]

Names, places, things and two-digit years must each be one token where they stand, so that all
prompts have one length and positions mean the same in all.  Words that are split are left out; too
few left is an error that shows the split.

[Wang 2022] "Interpretability in the Wild", arXiv 2211.00593.  [Hanna 2023] "How does GPT-2 compute
greater-than?", arXiv 2305.00586.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from homolog.corpus.tasks.nearest import check_choice
from homolog.corpus.tasks.pairs import PromptPairs, check_count, last_position, seeded, tokenizer_of
from homolog.corpus.token_text import alone, token_texts
from homolog.corpus.tokenizers import special_ids
from homolog.errors import InputError

NAMES = (
    "John",
    "Mary",
    "Tom",
    "James",
    "Dan",
    "Sean",
    "Paul",
    "Michael",
    "David",
    "Mark",
    "Kevin",
    "Peter",
    "George",
    "Robert",
    "Richard",
    "Thomas",
    "Charles",
    "William",
    "Henry",
    "Jack",
    "Simon",
    "Adam",
    "Alex",
    "Ben",
    "Sam",
    "Max",
    "Frank",
    "Scott",
    "Alice",
    "Anna",
    "Emma",
    "Sarah",
    "Kate",
    "Laura",
    "Jane",
    "Lisa",
    "Rachel",
    "Helen",
    "Lucy",
    "Rose",
    "Grace",
    "Amy",
    "Martin",
    "Andrew",
)
PLACES = ("store", "garden", "school", "station", "house", "office", "restaurant", "hospital")
THINGS = ("drink", "ring", "book", "computer", "ball", "snack", "necklace", "gift")
NOUNS = (
    "war",
    "conflict",
    "treaty",
    "campaign",
    "battle",
    "voyage",
    "rebellion",
    "reign",
    "siege",
    "strike",
    "trial",
    "journey",
    "project",
    "study",
)
CENTURIES = tuple(range(11, 18))
TEMPLATES = (
    "Then, {a} and {b} went to the {place}. {s} gave a {thing} to",
    "Then, {a} and {b} worked at the {place}. {s} gave a {thing} to",
    "Then, {a} and {b} met at the {place}. {s} decided to give a {thing} to",
    "Then, {a} and {b} found a {thing} at the {place}. {s} gave it to",
    "When {a} and {b} got a {thing} at the {place}, {s} decided to give it to",
    "After {a} and {b} went to the {place}, {s} gave a {thing} to",
)
_YEAR = "The {noun} lasted from the year {century}{year} to the year {century}"
_OWN_PAIRS = "Use another model, or give your own pairs as JSONL."
IOI_CORRUPTIONS = ("other_names", "swap")


def ioi(
    vocabulary: Any,
    n_prompts: int,
    *,
    seed: int = 0,
    corruption: str = "other_names",
    names: Sequence[str] = NAMES,
) -> PromptPairs:
    """Indirect object identification: two names, one of them again; the answer is the other one,
    the distractor the one that is repeated.

    vocabulary  a model or a tokenizer
    corruption  other_names: three other names instead, none of them twice; swap: the other name is repeated, so that
                the corrupt prompt calls for the distractor
    names       to draw from; those of one token are used

    Templates of one token length are used, the commonest. Which name comes first is drawn.
    Positions: IO, S1, S1+1, S2, last.  Raises `InputError` when fewer than 5 names, or no place or
    thing, are one token.
    """
    check_count(n_prompts)
    check_choice("corruption", corruption, IOI_CORRUPTIONS)
    tokenizer = tokenizer_of(vocabulary, "indirect object identification")
    name_ids = single_tokens(tokenizer, names, "Then, Anna and", "name", at_least=5)
    places = single_tokens(tokenizer, PLACES, "Then, they went to the", "place")
    things = single_tokens(tokenizer, THINGS, "Then, they gave a", "thing")
    templates = _of_one_length(tokenizer, list(name_ids), list(places), list(things))
    generator = seeded("ioi", seed)
    texts: list[str] = []
    corrupt_texts: list[str] = []
    asked: list[tuple[str, str]] = []  # indirect object and subject of each prompt
    for _ in range(n_prompts):
        io, s, c, d, e = generator.choice(list(name_ids), 5, replace=False)
        template = str(generator.choice(templates))
        filler = {"place": generator.choice(list(places)), "thing": generator.choice(list(things))}
        a, b = (io, s) if generator.random() < 0.5 else (s, io)
        texts.append(template.format(a=a, b=b, s=s, **filler))
        other = {"a": a, "b": b, "s": io} if corruption == "swap" else {"a": c, "b": d, "s": e}
        corrupt_texts.append(template.format(**other, **filler))
        asked.append((str(io), str(s)))
    clean, corrupt = _prompts(tokenizer, texts), _prompts(tokenizer, corrupt_texts)
    answer, distractor = (torch.tensor([name_ids[pair[i]] for pair in asked]) for i in range(2))
    at_io, at_s = (clean == token[:, None] for token in (answer, distractor))
    if clean.shape != corrupt.shape or (at_io.sum(1) != 1).any() or (at_s.sum(1) != 2).any():
        raise InputError(
            "tokenizer",
            texts[0],
            "its names must be the same tokens wherever they stand",
            _OWN_PAIRS,
        )
    first, second = at_s.long().argmax(1), clean.shape[1] - 1 - at_s.flip(1).long().argmax(1)
    positions = {"IO": at_io.long().argmax(1), "S1": first, "S1+1": first + 1, "S2": second}
    positions["last"] = last_position(n_prompts, clean.shape[1])
    return PromptPairs("ioi", clean, corrupt, answer, distractor, positions, seed)


def greater_than(vocabulary: Any, n_prompts: int, *, seed: int = 0) -> PromptPairs:
    """Years: an event lasts from the year CCYY to the year CC..; two-digit years after YY are
    right, the others wrong.

    vocabulary  a model or a tokenizer

    `choices` are the two-digit years and `right` says which are later than YY; `answer` is one of
    those, `distractor` one of the others, both drawn at random.  The corrupt prompt starts in the
    year CC01: nearly all years are later.  Positions: year (the token YY), last.  Raises
    `InputError` when the tokenizer makes YY no token of its own.
    """
    check_count(n_prompts)
    tokenizer = tokenizer_of(vocabulary, "greater-than")
    nouns = single_tokens(tokenizer, NOUNS, "The", "noun")
    years = _years(tokenizer, next(iter(nouns)))
    ids: dict[int, int] = {
        year: token for tokens in years.values() for year, token in tokens.items()
    }
    numbers = np.array(sorted(ids))
    usable = [
        (c, y)
        for c, tokens in years.items()
        for y in tokens
        if y > 1 and numbers[0] <= y < numbers[-1]
    ]
    generator = seeded("greater than", seed)
    chosen = [usable[i] for i in generator.integers(0, len(usable), n_prompts)]
    named = [str(noun) for noun in generator.choice(list(nouns), n_prompts)]
    events = list(zip(named, chosen, strict=True))
    texts = [
        _YEAR.format(noun=noun, century=century, year=f"{year:02d}")
        for noun, (century, year) in events
    ]
    corrupt_texts = [
        _YEAR.format(noun=noun, century=century, year="01") for noun, (century, _) in events
    ]
    clean, corrupt = _prompts(tokenizer, texts), _prompts(tokenizer, corrupt_texts)
    differs = clean != corrupt
    if clean.shape != corrupt.shape or (differs.sum(1) != 1).any():
        raise InputError(
            "tokenizer",
            texts[0],
            "its years must be the same tokens wherever they stand",
            _OWN_PAIRS,
        )
    start = np.array([y for _, y in chosen])
    right = numbers[None, :] > start[:, None]
    choices = np.array([ids[int(number)] for number in numbers])
    answer, distractor = (
        torch.from_numpy(choices[np.where(of, generator.random(right.shape), -1.0).argmax(1)])
        for of in (right, ~right)
    )
    return PromptPairs(
        "greater_than",
        clean,
        corrupt,
        answer,
        distractor,
        {"year": differs.long().argmax(1), "last": last_position(n_prompts, clean.shape[1])},
        seed,
        torch.from_numpy(choices),
        torch.from_numpy(right),
    )


def single_tokens(
    tokenizer: Any, words: Sequence[str], after: str, what: str, *, at_least: int = 1
) -> dict[str, int]:
    """Token of each word that is one token when it follows the text `after` and a space; the other
    words are left out.

    Raises `InputError` when fewer than `at_least` are left, with a word that was split, into which
    tokens.
    """
    found = {word: continuation(tokenizer, after, f" {word}") for word in words}
    kept = {word: ids[0] for word, ids in found.items() if len(ids) == 1}
    if len(kept) < at_least:
        split = next((word for word, ids in found.items() if len(ids) != 1), None)
        example = (
            f"it reads {shown(tokenizer, f' {split}')}"
            if split is not None
            else f"there are {len(words)} in all"
        )
        raise InputError(
            what,
            split if split is not None else list(words),
            f"the tokenizer must have {at_least} or more {what}s as one token each and has "
            f"{len(kept)}: {example}",
            _OWN_PAIRS,
        )
    return kept


def continuation(tokenizer: Any, text: str, more: str) -> list[int]:
    """Tokens that `more` adds to `text`; [] when it changes the tokens of `text`, or adds unknown
    or special ones.
    """
    before, whole = encode(tokenizer, [text, text + more])
    added = whole[len(before) :]
    clean = whole[: len(before)] == before and not set(added) & {
        *special_ids(tokenizer),
        tokenizer.unk_token_id,
    }
    return added if clean else []


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens at its ends."""
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def shown(tokenizer: Any, text: str) -> str:
    """The tokens of a text, for messages: ' J' + 'ohn'."""
    (ids,), texts = encode(tokenizer, [text]), token_texts(tokenizer)
    return f"{text!r} as " + " + ".join(repr(alone(texts[token])) for token in ids)


def _prompts(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Token ids (prompt, position).  InputError, with an example, when the texts have different
    lengths.
    """
    ids = encode(tokenizer, texts)
    common = Counter(map(len, ids)).most_common(1)[0][0]
    for text, own in zip(texts, ids, strict=True):
        if len(own) != common:
            raise InputError(
                "prompt", text, f"it has {len(own)} tokens and the others have {common}", _OWN_PAIRS
            )
    return torch.tensor(ids, dtype=torch.int64)


def _of_one_length(
    tokenizer: Any, names: list[str], places: list[str], things: list[str]
) -> list[str]:
    """The templates that have the commonest number of tokens."""
    filler = {"a": names[0], "b": names[1], "s": names[1], "place": places[0], "thing": things[0]}
    lengths = [
        len(ids) for ids in encode(tokenizer, [template.format(**filler) for template in TEMPLATES])
    ]
    common = Counter(lengths).most_common(1)[0][0]
    return [template for template, n in zip(TEMPLATES, lengths, strict=True) if n == common]


def _years(tokenizer: Any, noun: str) -> dict[int, dict[int, int]]:
    """For each century whose first year can be written: the token of each two-digit year that is
    one.
    """
    years: dict[int, dict[int, int]] = {}
    for century in CENTURIES:
        text = _YEAR.split("{year}")[0].format(noun=noun, century=century)
        found = {year: continuation(tokenizer, text, f"{year:02d}") for year in range(100)}
        kept = {year: ids[0] for year, ids in found.items() if len(ids) == 1}
        if 1 in kept:
            years[century] = kept
    if sum(len(kept) for kept in years.values()) < 10:
        raise InputError(
            "year",
            "1732",
            "its last two digits must be one token; the tokenizer reads "
            f"{shown(tokenizer, ' 1732')}",
            _OWN_PAIRS,
        )
    return years
