"""Random tokens: prompts by hand, and what each corruption changes."""

from __future__ import annotations

import pytest
import torch
from tests.corpus.tasks.helpers import IDS, at

from homolog.corpus.tasks import CORRUPTIONS, associative_recall, induction


def test_induction_prompts_repeat_one_token_and_ask_for_the_next() -> None:
    pairs = induction(IDS, 200, seed=3)
    a, b = at(pairs.clean, pairs.positions["A"]), at(pairs.clean, pairs.positions["B"])
    assert (len(pairs), pairs.length, pairs.name) == (200, 64, "induction")
    assert pairs.clean.dtype == torch.int64
    assert torch.equal(pairs.clean[:, -1], a) and torch.equal(pairs.answer, b)
    assert torch.equal(pairs.positions["B"], pairs.positions["A"] + 1)
    assert torch.equal(pairs.positions["B+1"], pairs.positions["A"] + 2)
    assert set(pairs.positions["last"].tolist()) == {63}
    assert ((pairs.clean == a[:, None]).sum(1) == 2).all()
    assert ((pairs.clean == b[:, None]).sum(1) == 1).all()
    # 200 draws from 32: a gap has probability 0.06
    assert set(pairs.positions["A"].tolist()) == set(range(32))
    assert pairs.clean.min() >= 10 and pairs.clean.max() < 400
    assert ((pairs.clean == pairs.distractor[:, None]).sum(1) == 0).all()
    # all differ but the repeat
    assert [len(set(row.tolist())) for row in pairs.clean] == [63] * 200


def test_the_papers_second_prompt_has_a_first() -> None:
    pairs = induction(IDS, 5, length=129, first_index=0)
    assert pairs.clean.shape == (5, 129)
    assert torch.equal(pairs.clean[:, 0], pairs.clean[:, 128]) and torch.equal(
        pairs.answer, pairs.clean[:, 1]
    )


@pytest.mark.parametrize("repeat", [1, 4])
def test_what_each_corruption_changes(repeat: int) -> None:
    made = {
        c: induction(IDS, 50, seed=1, length=20, corruption=c, repeat=repeat) for c in CORRUPTIONS
    }
    one = made["replace_B"]
    a, b = one.positions["A"], one.positions["B"]
    rows, end = torch.arange(50), torch.arange(20) >= 20 - repeat
    changed = {c: pairs.clean != pairs.corrupt for c, pairs in made.items()}
    is_a, is_b = (torch.arange(20) == index[:, None] for index in (a, b))
    assert torch.equal(changed["replace_B"], is_b)
    assert torch.equal(changed["unrepeated"], end.expand(50, 20))
    assert torch.equal(changed["unrepeated_replace_AB"], end | is_a | is_b)
    assert changed["unrelated"].float().mean() > 0.9
    assert (
        not changed["repeat_another"][:, :-repeat].any() and changed["repeat_another"][:, -1].all()
    )
    assert torch.equal(at(one.corrupt, b), one.distractor)
    for c in ("unrepeated", "unrepeated_replace_AB", "unrelated"):
        assert [len(set(row.tolist())) for row in made[c].corrupt] == [20] * 50, c
    other = made["repeat_another"]
    earlier = (other.clean[:, : 20 - repeat] == other.corrupt[:, -1:]).long()
    assert (
        earlier.sum(1) == 1
    ).all()  # the corrupt prompt repeats another token; its answer is what came next
    assert torch.equal(other.clean[rows, earlier.argmax(1) + 1], other.distractor)
    assert (other.distractor != other.answer).all() and (
        other.distractor != other.clean[:, -1]
    ).all()
    for pairs in made.values():  # paired: the same clean prompts
        assert torch.equal(pairs.clean, one.clean) and torch.equal(pairs.answer, one.answer)
    for back in range(repeat):  # the repeat is of the tokens that end with A
        assert torch.equal(one.clean[:, -1 - back], one.clean[rows, a - back])


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_vocabulary_smaller_than_the_prompt_keeps_the_answer_unambiguous(corruption: str) -> None:
    pairs = induction(range(12), 30, length=40, corruption=corruption)
    a = pairs.clean[:, -1:]
    assert ((pairs.clean == a).sum(1) == 2).all()
    assert ((pairs.clean == pairs.answer[:, None]).sum(1) == 1).all()
    assert (pairs.answer != pairs.distractor).all()


def test_seeds_decide_and_only_they() -> None:
    first, again, other = (induction(IDS, 8, seed=s) for s in (5, 5, 6))
    assert torch.equal(first.clean, again.clean) and torch.equal(first.corrupt, again.corrupt)
    assert not torch.equal(first.clean, other.clean)


def test_associative_recall_asks_for_the_value_of_a_key() -> None:
    pairs = associative_recall(IDS, 100, n_pairs=5)
    assert pairs.length == 11 and (pairs.positions["A"] % 2 == 0).all()
    assert torch.equal(at(pairs.clean, pairs.positions["A"]), pairs.clean[:, -1])
    assert torch.equal(at(pairs.clean, pairs.positions["B"]), pairs.answer)
    assert set(pairs.positions["A"].tolist()) == {0, 2, 4, 6, 8}
    assert torch.equal(pairs.clean[:, :-1], pairs.corrupt[:, :-1])
    keys, values = pairs.clean[:, 0:-1:2], pairs.clean[:, 1::2]
    asked = keys == pairs.corrupt[:, -1:]
    assert (asked.sum(1) == 1).all() and torch.equal(values[asked], pairs.distractor)
    assert (pairs.distractor != pairs.answer).all()
