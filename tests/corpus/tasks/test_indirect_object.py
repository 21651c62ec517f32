"""Indirect object identification, by reading the prompts."""

from __future__ import annotations

import pytest
import torch
from tests.corpus.tasks.helpers import at, english

from homolog.corpus.tasks import ioi, ordinary_ids
from homolog.corpus.tasks.indirect_object import NAMES
from homolog.errors import InputError


def test_ioi_by_reading_the_prompts() -> None:
    tokenizer = english()
    pairs = ioi(tokenizer, 40)
    words = [[tokenizer.decode([t]).strip() for t in row] for row in pairs.clean.tolist()]
    for i, row in enumerate(words):
        place = {name: int(position[i]) for name, position in pairs.positions.items()}
        io, s = row[place["IO"]], row[place["S1"]]
        assert {io, s} <= set(NAMES) and io != s and row[place["S2"]] == s and row.count(io) == 1
        assert tokenizer.decode([int(pairs.answer[i])]).strip() == io
        assert tokenizer.decode([int(pairs.distractor[i])]).strip() == s
        assert (
            row[-1] in {"to", "it"}
            and place["last"] == len(row) - 1
            and place["S1+1"] == place["S1"] + 1
        )
    assert {bool(x) for x in pairs.positions["IO"] < pairs.positions["S1"]} == {True, False}
    names = {int(t) for t in ordinary_ids(tokenizer) if tokenizer.decode([int(t)]).strip() in NAMES}
    changed = pairs.clean != pairs.corrupt
    assert (changed.sum(1) == 3).all()  # three names, each replaced by another one
    assert set(pairs.corrupt[changed].tolist()) <= names
    assert all(
        len(set(row[c].tolist())) == 3 for row, c in zip(pairs.corrupt, changed, strict=True)
    )


def test_ioi_swapped_calls_for_the_distractor() -> None:
    pairs = ioi(english(), 10, corruption="swap")
    changed = pairs.clean != pairs.corrupt
    assert (changed.sum(1) == 1).all() and torch.equal(
        changed.long().argmax(1), pairs.positions["S2"]
    )
    assert torch.equal(at(pairs.corrupt, pairs.positions["S2"]), pairs.answer)


def test_names_of_one_token_are_kept_and_too_few_are_an_error() -> None:
    tokenizer = english()
    # an unknown word is no token of its own
    pairs = ioi(tokenizer, 12, names=[*NAMES[:5], "Bartholomew"])
    assert {tokenizer.decode([t]).strip() for t in pairs.answer.tolist()} <= set(NAMES[:5])
    with pytest.raises(InputError, match=r"name is 'Bartholomew'.* has 4"):
        ioi(tokenizer, 12, names=[*NAMES[:4], "Bartholomew"])
