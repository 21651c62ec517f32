"""Greater-than: an event lasts from one year to a later one [Hanna 2023].

    clean     The war lasted from the year 1732 to the year 17      -> any of "33" ... "99"
    corrupt   the same from the year 1701: nearly all years are later

[Hanna 2023] "How does GPT-2 compute greater-than?", arXiv 2305.00586.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from homolog.corpus.tasks.pairs import PromptPairs, check_count, last_position, seeded, tokenizer_of
from homolog.corpus.tasks.task import PromptTask
from homolog.corpus.tasks.texts import (
    OWN_PAIRS,
    continuation,
    encode_prompts,
    name_of,
    shown,
    single_tokens,
)
from homolog.errors import InputError

_NOUNS = """
    war conflict treaty campaign battle voyage rebellion reign siege strike trial journey project
    study
"""
NOUNS = tuple(_NOUNS.split())
CENTURIES = tuple(range(11, 18))
_EVENT = "The {noun} lasted from the year {century}{year} to the year {century}"


def greater_than(vocabulary: Any, n_prompts: int, *, seed: int = 0) -> PromptPairs:
    """Years CCYY to CC..: two-digit years after YY are right, the others wrong.

    vocabulary  a model or a tokenizer

    `choices` are the two-digit years and `right` says which are later than YY; `answer` is one of
    those, `distractor` one of the others, both drawn at random.  The corrupt prompt starts in the
    year CC01: nearly all years are later.  Positions: year (the token YY), last.  Raises
    `InputError` when the tokenizer makes YY no token of its own.
    """
    check_count(n_prompts)
    tokenizer = tokenizer_of(vocabulary, "greater-than")
    events = single_tokens(tokenizer, NOUNS, "The", "noun")
    nouns = events.all
    years = _years(tokenizer, nouns[0])
    ids = {year: token for tokens in years.values() for year, token in tokens.items()}
    numbers = np.array(sorted(ids))
    first, last = numbers[0], numbers[-1]
    usable = [(c, y) for c, own in years.items() for y in own if y > 1 and first <= y < last]
    generator = seeded("greater than", seed)
    chosen = [usable[i] for i in generator.integers(0, len(usable), n_prompts)]
    named = [str(noun) for noun in generator.choice(nouns, n_prompts)]
    asked = [(noun, century, year) for noun, (century, year) in zip(named, chosen, strict=True)]
    texts = [_EVENT.format(noun=n, century=c, year=f"{y:02d}") for n, c, y in asked]
    corrupt_texts = [_EVENT.format(noun=n, century=c, year="01") for n, c, _ in asked]
    clean, corrupt = encode_prompts(tokenizer, texts), encode_prompts(tokenizer, corrupt_texts)
    differs = clean != corrupt
    if clean.shape != corrupt.shape or (differs.sum(1) != 1).any():
        requirement = "its years must be the same tokens wherever they stand"
        raise InputError("tokenizer", texts[0], requirement, OWN_PAIRS)
    right = numbers[None, :] > np.array([year for _, _, year in asked])[:, None]
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
        dropped={
            "noun": events.dropped,
            "century": tuple(str(century) for century in CENTURIES if century not in years),
            "year": tuple(f"{year:02d}" for year in range(100) if year not in ids),
        },
    )


def _years(tokenizer: Any, noun: str) -> dict[int, dict[int, int]]:
    """Tokens of two-digit years that are one, by century whose first year can be written."""
    years: dict[int, dict[int, int]] = {}
    for century in CENTURIES:
        text = _EVENT.split("{year}")[0].format(noun=noun, century=century)
        tokens = {year: continuation(tokenizer, text, f"{year:02d}") for year in range(100)}
        kept = {year: ids[0] for year, ids in tokens.items() if len(ids) == 1}
        if 1 in kept:
            years[century] = kept
    if (n := sum(len(kept) for kept in years.values())) < 10:
        reads = f"the tokenizer {name_of(tokenizer)} reads {shown(tokenizer, ' 1732')}"
        needed = "its last two digits must be one token, those of 10 years at least"
        requirement = f"{needed}, and they are in {n}: {reads}"
        raise InputError("year", "1732", requirement, OWN_PAIRS)
    return years


GREATER_THAN = PromptTask(
    make=greater_than,
    title="Greater-than",
    prompt='"The war lasted from the year 1732 to the year 17" calls for any of "33" ... "99"',
    source="Hanna et al. 2023, arXiv 2305.00586",
)
