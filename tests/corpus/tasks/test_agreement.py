"""Agreement over a noun between, by reading the prompts."""

from __future__ import annotations

import pytest
import torch
from tests.corpus.tasks.helpers import english, word_level

from homolog.corpus.tasks import agreement
from homolog.corpus.tasks.agreement import NOUNS, VERBS
from homolog.errors import InputError

NUMBER = {
    word: number for pairs in (NOUNS, VERBS) for pair in pairs for number, word in enumerate(pair)
}


@pytest.mark.parametrize("between", ["other", "same", "any"])
def test_agreement_by_reading_the_prompts(between: str) -> None:
    tokenizer = english()
    pairs = agreement(tokenizer, 60, between=between)
    assert pairs.choices is not None and pairs.right is not None and pairs.distractor is not None
    choices = [tokenizer.decode([t]).strip() for t in pairs.choices.tolist()]
    assert sorted(choices) == sorted(word for pair in VERBS for word in pair)
    seen = set()
    for i, (clean, corrupt) in enumerate(
        zip(pairs.clean.tolist(), pairs.corrupt.tolist(), strict=True)
    ):
        words, others = ([tokenizer.decode([t]).strip() for t in row] for row in (clean, corrupt))
        the, subject, of, article, noun = words
        assert (the, of, article) == ("The", "of", "the")
        place = {name: int(position[i]) for name, position in pairs.positions.items()}
        assert place == {"subject": 1, "noun": 4, "last": 4}
        # the corrupt prompt has the same subject in the other number, and nothing else
        forms = {"subject": {subject, others[1]}, "rest": [w for w in others if w != others[1]]}
        assert tuple(forms["subject"]) in NOUNS or tuple(forms["subject"])[::-1] in NOUNS
        assert others[:1] + others[2:] == words[:1] + words[2:]
        number = NUMBER[subject]
        assert pairs.right[i].tolist() == [NUMBER[verb] == number for verb in choices]
        answer = tokenizer.decode([int(pairs.answer[i])]).strip()
        distractor = tokenizer.decode([int(pairs.distractor[i])]).strip()
        assert NUMBER[answer] == number and {answer, distractor} in [set(pair) for pair in VERBS]
        seen.add((number, NUMBER[noun] == number))
    assert {number for number, _ in seen} == {0, 1}
    alike = {same for _, same in seen}
    assert alike == {"other": {False}, "same": {True}, "any": {True, False}}[between]


def test_its_seed_draws_it() -> None:
    first, again, other = (agreement(english(), 20, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.clean, again.clean) and not torch.equal(first.clean, other.clean)


def test_words_that_are_split_are_refused_or_left_out() -> None:
    words = ["The", "of", "the", "is", "are", *(word for pair in NOUNS[:6] for word in pair)]
    tokenizer = word_level(["The", *(f" {word}" for word in words if word != "files")])
    pairs = agreement(tokenizer, 8)
    assert pairs.dropped["verb"] == ("was", "were", "has", "have")
    assert "files" in pairs.dropped["noun"] and pairs.choices is not None
    assert len(pairs.choices) == 2
    few = word_level(["The", *(f" {word}" for word in words[:11] if word != "files")])
    with pytest.raises(InputError, match="noun"):
        agreement(few, 8)
    with pytest.raises(InputError, match="between"):
        agreement(tokenizer, 8, between="neither")
