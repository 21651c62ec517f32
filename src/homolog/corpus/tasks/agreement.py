"""Agreement of subject and verb over a noun between them [Linzen 2016].

    clean     The files of the house      -> any of " are", " were", " have"
    corrupt   the subject in the other number: The file of the house

The noun between is in the other number (`between="other"`, so that the nearest noun is wrong), in
the subject's ("same"), or in either ("any").

[Linzen 2016] Linzen, Dupoux and Goldberg, "Assessing the Ability of LSTMs to Learn Syntax-Sensitive
Dependencies", TACL 2016, arXiv 1611.01368; templates with prepositions as in Finlayson et al. 2021,
arXiv 2106.06087.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from homolog.corpus.tasks.nearest import check_choice
from homolog.corpus.tasks.pairs import PromptPairs, check_count, last_position, seeded, tokenizer_of
from homolog.corpus.tasks.task import PromptTask
from homolog.corpus.tasks.texts import OWN_PAIRS, Words, encode_prompts, name_of, single_tokens
from homolog.errors import InputError

_NOUNS = """
    file/files option/options command/commands value/values user/users name/names system/systems
    function/functions line/lines word/words man/men son/sons king/kings law/laws state/states
    nation/nations number/numbers day/days year/years child/children house/houses city/cities
    server/servers page/pages process/processes program/programs package/packages table/tables
    column/columns row/rows object/objects point/points field/fields part/parts
    servant/servants priest/priests ship/ships officer/officers
"""
NOUNS = [(one, many) for one, many in (pair.split("/") for pair in _NOUNS.split())]
VERBS = [("is", "are"), ("was", "were"), ("has", "have")]
BETWEEN = ("other", "same", "any")
_TEXT = "The {subject} of the {noun}"


def agreement(
    vocabulary: Any, n_prompts: int, *, seed: int = 0, between: str = "other"
) -> PromptPairs:
    """The verb has the number of the subject, not that of the noun before it.

    vocabulary  a model or a tokenizer
    between     other, same or any: the number of the noun between, as the module's text has it

    `choices` are the verbs and `right` says which have the subject's number; `answer` is one of
    those, `distractor` the same verb in the other number.  Half of the subjects are plural, by lot.
    Positions: subject, noun, last.  Raises `InputError` when fewer than 4 nouns are one token in
    both numbers, or no verb is.
    """
    check_count(n_prompts)
    check_choice("between", between, BETWEEN)
    tokenizer = tokenizer_of(vocabulary, "agreement")
    nouns, of_nouns = _in_both_numbers(tokenizer, NOUNS, "The", "noun", at_least=4)
    verbs, of_verbs = _in_both_numbers(tokenizer, VERBS, f"The {nouns[0][0]}", "verb")
    generator = seeded("agreement", seed)
    plural = generator.integers(0, 2, n_prompts)
    same = generator.integers(0, 2, n_prompts)
    noun_plural = {"other": 1 - plural, "same": plural, "any": same}[between]
    texts: tuple[list[str], list[str]] = ([], [])
    for number, noun_number in zip(plural, noun_plural, strict=True):
        subject, noun = generator.choice(len(nouns), 2, replace=False)
        for side, kept in enumerate((number, 1 - number)):
            words = {"subject": nouns[subject][kept], "noun": nouns[noun][noun_number]}
            texts[side].append(_TEXT.format(**words) + of_verbs.space)
    clean, corrupt = (encode_prompts(tokenizer, side) for side in texts)
    differs = clean != corrupt
    if clean.shape != corrupt.shape or (differs.sum(1) != 1).any():
        requirement = "its nouns must be the same tokens wherever they stand"
        raise InputError("tokenizer", texts[0][0], requirement, OWN_PAIRS)
    choices = torch.tensor([[of_verbs.tokens[word] for word in pair] for pair in verbs])
    drawn = torch.from_numpy(generator.integers(0, len(verbs), n_prompts))
    number = torch.from_numpy(plural)
    last = last_position(n_prompts, clean.shape[1])
    return PromptPairs(
        "agreement",
        clean,
        corrupt,
        choices[drawn, number],
        choices[drawn, 1 - number],
        {
            "subject": differs.long().argmax(1),
            "noun": last - len(of_verbs.space),
            "last": last,
        },
        seed,
        choices.flatten(),
        (torch.arange(2).repeat(len(verbs))[None, :] == number[:, None]),
        dropped={"noun": of_nouns.dropped, "verb": of_verbs.dropped},
    )


def _in_both_numbers(
    tokenizer: Any, pairs: Sequence[tuple[str, str]], after: str, what: str, *, at_least: int = 1
) -> tuple[list[tuple[str, str]], Words]:
    """The pairs of singular and plural of which both are one token, and all words that are."""
    words = [word for pair in pairs for word in pair]
    known = single_tokens(tokenizer, words, after, what, at_least=2 * at_least)
    whole = [pair for pair in pairs if all(word in known.tokens for word in pair)]
    if len(whole) < at_least:
        needed = f"{at_least} or more must be one token in both numbers"
        requirement = f"{needed}, and in the tokenizer {name_of(tokenizer)} {len(whole)} are"
        raise InputError(what, known.dropped[0], requirement, OWN_PAIRS)
    return whole, known


AGREEMENT = PromptTask(
    make=agreement,
    title="Agreement over a distance",
    prompt='"The files of the house" calls for any of " are", " were", " have"',
    source="Linzen et al. 2016, arXiv 1611.01368",
)
