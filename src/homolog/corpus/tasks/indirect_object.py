"""Indirect object identification, written from templates and checked token by token [Wang 2022].

    clean     Then, Ann and Bob went to the store. Bob gave a drink to      -> " Ann", not " Bob"
    corrupt   other_names: three other names instead, none of them twice
              swap: the other name is repeated, so that the prompt calls for the distractor

[Wang 2022] "Interpretability in the Wild", arXiv 2211.00593.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from homolog.corpus.tasks.nearest import check_choice
from homolog.corpus.tasks.pairs import PromptPairs, check_count, last_position, seeded, tokenizer_of
from homolog.corpus.tasks.task import PromptTask
from homolog.corpus.tasks.texts import OWN_PAIRS, commonest, encode, encode_prompts, single_tokens
from homolog.errors import InputError

_NAMES = """
    John Mary Tom James Dan Sean Paul Michael David Mark Kevin Peter George Robert Richard Thomas
    Charles William Henry Jack Simon Adam Alex Ben Sam Max Frank Scott Alice Anna Emma Sarah Kate
    Laura Jane Lisa Rachel Helen Lucy Rose Grace Amy Martin Andrew
"""
NAMES = tuple(_NAMES.split())
PLACES = ("store", "garden", "school", "station", "house", "office", "restaurant", "hospital")
THINGS = ("drink", "ring", "book", "computer", "ball", "snack", "necklace", "gift")
TEMPLATES = (
    "Then, {a} and {b} went to the {place}. {s} gave a {thing} to",
    "Then, {a} and {b} worked at the {place}. {s} gave a {thing} to",
    "Then, {a} and {b} met at the {place}. {s} decided to give a {thing} to",
    "Then, {a} and {b} found a {thing} at the {place}. {s} gave it to",
    "When {a} and {b} got a {thing} at the {place}, {s} decided to give it to",
    "After {a} and {b} went to the {place}, {s} gave a {thing} to",
)
IOI_CORRUPTIONS = ("other_names", "swap")


def ioi(
    vocabulary: Any,
    n_prompts: int,
    *,
    seed: int = 0,
    corruption: str = "other_names",
    names: Sequence[str] = NAMES,
) -> PromptPairs:
    """Two names, one of them again: the answer is the other one, the distractor the repeated one.

    vocabulary  a model or a tokenizer
    corruption  other_names or swap, as the module's text has them
    names       to draw from; those of one token are used

    Templates of one token length are used, the commonest. Which name comes first is drawn.
    Positions: IO, S1, S1+1, S2, last.  Raises `InputError` when fewer than 5 names, or no place or
    thing, are one token.
    """
    check_count(n_prompts)
    check_choice("corruption", corruption, IOI_CORRUPTIONS)
    tokenizer = tokenizer_of(vocabulary, "indirect object identification")
    people = single_tokens(tokenizer, names, "Then, Anna and", "name", at_least=5)
    places = single_tokens(tokenizer, PLACES, "Then, they went to the", "place")
    things = single_tokens(tokenizer, THINGS, "Then, they gave a", "thing")
    templates = _of_one_length(tokenizer, people.all, places.all, things.all)
    name_ids, end = people.tokens, people.space
    generator = seeded("ioi", seed)
    texts: list[str] = []
    corrupt_texts: list[str] = []
    asked: list[tuple[str, str]] = []  # indirect object and subject of each prompt
    for _ in range(n_prompts):
        io, s, c, d, e = generator.choice(people.all, 5, replace=False)
        template = str(generator.choice(templates)) + end
        filler = {"place": generator.choice(places.all), "thing": generator.choice(things.all)}
        a, b = (io, s) if generator.random() < 0.5 else (s, io)
        texts.append(template.format(a=a, b=b, s=s, **filler))
        other = {"a": a, "b": b, "s": io} if corruption == "swap" else {"a": c, "b": d, "s": e}
        corrupt_texts.append(template.format(**other, **filler))
        asked.append((str(io), str(s)))
    clean, corrupt = encode_prompts(tokenizer, texts), encode_prompts(tokenizer, corrupt_texts)
    answer, distractor = (torch.tensor([name_ids[pair[i]] for pair in asked]) for i in range(2))
    at_io, at_s = (clean == token[:, None] for token in (answer, distractor))
    if clean.shape != corrupt.shape or (at_io.sum(1) != 1).any() or (at_s.sum(1) != 2).any():
        requirement = "its names must be the same tokens wherever they stand"
        raise InputError("tokenizer", texts[0], requirement, OWN_PAIRS)
    first, second = at_s.long().argmax(1), clean.shape[1] - 1 - at_s.flip(1).long().argmax(1)
    positions = {"IO": at_io.long().argmax(1), "S1": first, "S1+1": first + 1, "S2": second}
    positions["last"] = last_position(n_prompts, clean.shape[1])
    dropped = {"name": people.dropped, "place": places.dropped, "thing": things.dropped}
    dropped["template"] = tuple(text for text in TEMPLATES if text not in templates)
    return PromptPairs("ioi", clean, corrupt, answer, distractor, positions, seed, dropped=dropped)


def _of_one_length(
    tokenizer: Any, names: list[str], places: list[str], things: list[str]
) -> list[str]:
    """The templates that have the commonest number of tokens."""
    filler = {"a": names[0], "b": names[1], "s": names[1], "place": places[0], "thing": things[0]}
    lengths = [len(ids) for ids in encode(tokenizer, [text.format(**filler) for text in TEMPLATES])]
    common = commonest(lengths)
    return [template for template, n in zip(TEMPLATES, lengths, strict=True) if n == common]


IOI = PromptTask(
    make=ioi,
    title="Indirect object identification",
    prompt='"Then, Ann and Bob went to the store. Bob gave a drink to" calls for " Ann"',
    source="Wang et al. 2022, arXiv 2211.00593",
)
