"""Which words a tokenizer leaves: with the space before them, or after a space of its own."""

from __future__ import annotations

import pytest
from tests.corpus.tasks.helpers import at, english
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from homolog.corpus.tasks import greater_than, ioi
from homolog.corpus.tasks.indirect_object import NAMES, PLACES, TEMPLATES, THINGS
from homolog.corpus.tasks.texts import name_of, single_tokens
from homolog.errors import InputError


def space_apart() -> PreTrainedTokenizerFast:
    """Every word is a token, and so is the space before it."""
    texts = " ".join((*TEMPLATES, "Anna they gave a")).replace(".", " .").replace(",", " ,").split()
    words = [word for word in (*texts, *NAMES, *PLACES, *THINGS) if not word.startswith("{")]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(["<eot>", " ", ".", ",", *words]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<eot>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" |[A-Za-z]+|[.,]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eot>", unk_token="<eot>")


def test_words_are_taken_with_the_space_where_the_tokenizer_has_it_so() -> None:
    words = single_tokens(english(), ["Mary", "Bartholomew", "John"], "Then, Anna and", "name")
    assert (words.all, words.space, words.dropped) == (["Mary", "John"], "", ("Bartholomew",))
    assert words.tokens["Mary"] == english().get_vocab()[" Mary"]


def test_words_are_taken_after_a_space_where_that_is_a_token() -> None:
    tokenizer = space_apart()
    words = single_tokens(tokenizer, ["Mary", "Bartholomew", "John"], "Then, Anna and", "name")
    assert (words.all, words.space, words.dropped) == (["Mary", "John"], " ", ("Bartholomew",))
    assert words.tokens["Mary"] == tokenizer.get_vocab()["Mary"]
    pairs = ioi(tokenizer, 8)
    space = tokenizer.get_vocab()[" "]
    assert (pairs.clean[:, -1] == space).all()  # what comes next is a name, without one
    for answer, there in zip(pairs.answer, at(pairs.clean, pairs.positions["IO"]), strict=True):
        assert answer == there and tokenizer.decode([int(answer)]) in NAMES


def test_prompts_say_which_words_were_dropped() -> None:
    pairs = ioi(english(), 4, names=[*NAMES, "Bartholomew", "Ebenezer"])
    assert pairs.dropped["name"] == ("Bartholomew", "Ebenezer")
    kept = [text for text in TEMPLATES if text not in pairs.dropped["template"]]
    assert 0 < len(kept) < len(TEMPLATES)  # those of the commonest length
    assert pairs.dropped_words.startswith("name: Bartholomew, Ebenezer; template: ")
    assert pairs[:2].begun(0).dropped == pairs.dropped
    assert greater_than(english(), 4).dropped_words == ""


def test_too_few_words_name_the_tokenizer_and_how_many_are_left(tmp_path) -> None:
    tokenizer = english()
    tokenizer.name_or_path = str(tmp_path / "of" / "mine")
    said = (
        r"name is 'Wu', but the tokenizer of/mine must have 5 or more names .* has 4 of 6: it reads"
    )
    with pytest.raises(InputError, match=said):
        ioi(tokenizer, 4, names=[*NAMES[:4], "Wu", "Li"])
    tokenizer.name_or_path = "OWNER/NAME"
    assert name_of(tokenizer) == "OWNER/NAME"
