"""Greater-than, by reading the prompts."""

from __future__ import annotations

import numpy as np
import pytest
from tests.corpus.tasks.helpers import at, english
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from homolog.corpus.tasks import greater_than
from homolog.corpus.tasks.years import NOUNS
from homolog.errors import InputError


def test_greater_than_by_reading_the_prompts() -> None:
    tokenizer = english()
    pairs = greater_than(tokenizer, 30)
    assert pairs.choices is not None and pairs.right is not None and pairs.distractor is not None
    values = np.array([int(tokenizer.decode([t])) for t in pairs.choices.tolist()])
    assert values.tolist() == list(range(100))
    for i, row in enumerate(pairs.clean.tolist()):
        year = int(tokenizer.decode([row[int(pairs.positions["year"][i])]]))
        assert pairs.right[i].tolist() == (values > year).tolist()
        assert int(tokenizer.decode([int(pairs.answer[i])])) > year
        assert int(tokenizer.decode([int(pairs.distractor[i])])) <= year
        assert int(tokenizer.decode([row[-1]])) in range(11, 18)
    assert tokenizer.decode(at(pairs.corrupt, pairs.positions["year"])[:1].tolist()) == "01"
    assert ((pairs.clean != pairs.corrupt).sum(1) == 1).all()


def test_years_in_single_digits_are_refused() -> None:
    words = ["The", *NOUNS, "lasted", "from", "the", "year", "to", *"0123456789"]
    backend_words = [*words, *(f" {w}" for w in words)]
    vocabulary = {word: index for index, word in enumerate(["<eot>", *backend_words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<eot>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?\d"), "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eot>", unk_token="<eot>"
    )
    with pytest.raises(InputError, match=r"' 1732' as ' 1' \+ '7' \+ '3' \+ '2'"):
        greater_than(tokenizer, 2)
