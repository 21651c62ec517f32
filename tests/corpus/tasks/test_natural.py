"""Induction in natural text: the recurrences that are taken, and those that are left out."""

from __future__ import annotations

import pytest
import torch
from tests.corpus.tasks.helpers import TOKENIZER, WINDOW, recurring, windows

from homolog.corpus import pack, read_documents
from homolog.corpus.tasks import make_task
from homolog.errors import InputError
from homolog.models import load_tokenizer


def test_the_recurrence_is_found() -> None:
    pairs = recurring(windows(WINDOW), 1, length=6)
    assert pairs.clean.tolist() == [[5, 1, 2, 6, 7, 1]]
    assert pairs.answer.tolist() == [2]
    assert (pairs.positions["A"].tolist(), pairs.positions["B"].tolist()) == ([1], [2])
    assert pairs.distractor is not None
    (distractor,) = pairs.distractor.tolist()
    assert distractor in {8, 9}  # not in the prompt, not the answer
    assert pairs.corrupt.tolist() == [[5, 1, distractor, 6, 7, 1]]
    assert recurring(windows(WINDOW), 1, length=5).clean.tolist() == [[1, 2, 6, 7, 1]]


@pytest.mark.parametrize(
    ("row", "length", "special"),
    [
        (WINDOW, 4, ()),  # the first A lies before the prompt
        ([1, 1, 2, 6, 7, 1, 2, 8, 9, 9], 6, ()),  # A twice before
        ([2, 1, 2, 6, 7, 1, 2, 8, 9, 9], 6, ()),  # B twice before
        (WINDOW, 6, (6,)),  # a special token between: another document
        ([5, 1, 1, 1, 7, 8, 9, 4, 3, 6], 4, ()),  # A A A
        ([5, 1, 2, 6, 7, 1, 3, 8, 9, 4], 6, ()),  # A recurs, and something else follows
    ],
)
def test_what_is_ambiguous_is_left_out(row: list[int], length: int, special: tuple) -> None:
    with pytest.raises(
        InputError, match=f"1 windows of 10 tokens have 0 .* within {length} tokens"
    ):
        recurring(windows(row, special=special), 1, length=length)


def test_what_a_bigram_model_knows_is_left_out() -> None:
    elsewhere = [1, 2, 3, 1, 2, 4, 1, 2, 5, 6]  # B follows 3 of 3 occurrences of A here
    with pytest.raises(InputError, match="have 0"):
        recurring(windows(WINDOW, elsewhere), 1, length=6, max_bigram=0.9)
    assert len(recurring(windows(WINDOW, elsewhere), 1, length=6, max_bigram=1.0)) == 1
    other = [1, 3, 3, 1, 4, 4, 1, 2, 5, 6]  # 1 of 3
    assert len(recurring(windows(WINDOW, other), 1, length=6, max_bigram=0.34)) == 1
    with pytest.raises(InputError, match="have 0"):
        recurring(windows(WINDOW, other), 1, length=6, max_bigram=0.32)


def test_one_place_of_each_window_is_taken() -> None:
    rows = [[10 * n + t for t in WINDOW] for n in range(8)]
    pairs = recurring(windows(*rows), 8, length=6)
    assert sorted(pairs.answer.tolist()) == [10 * n + 2 for n in range(8)]


def test_the_text_is_named_or_packed_before() -> None:
    tokenizer = load_tokenizer("zoo:transformer-s0")
    documents = read_documents("zoo:demo")
    text = pack(documents, tokenizer, context=256, n_tokens=1 << 21, fewer=True)
    named = make_task("natural_induction", tokenizer, 20, windows="zoo:demo", seed=4)
    packed = make_task("natural_induction", tokenizer, 20, windows=text, seed=4)
    assert torch.equal(named.clean, packed.clean) and torch.equal(named.corrupt, packed.corrupt)
    with pytest.raises(InputError, match=r"windows is None.*takes its prompts from text.*pack"):
        make_task("natural_induction", tokenizer, 20)
    with pytest.raises(InputError, match=r"corpus is 'nowhere\.txt'"):
        make_task("natural_induction", tokenizer, 20, windows="nowhere.txt")
    with pytest.raises(InputError, match="the model has another tokenizer"):
        make_task("natural_induction", TOKENIZER, 20, windows=text)
