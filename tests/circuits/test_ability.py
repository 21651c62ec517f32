"""What counts as solved, for each kind of prompts, and what is needed against chance."""

from __future__ import annotations

import pytest
import torch

from homolog.circuits.ability import task_ability
from homolog.circuits.metrics import measure
from homolog.corpus.tasks import PromptPairs

# answers 0, 1, 2, 3 of 5 tokens; the answer is on top in 1 of 4 prompts, above token 4 in 3 of 4
LOGITS = torch.tensor(
    [
        [9.0, 0, 0, 0, 1],
        [9.0, 2, 0, 0, 1],
        [9.0, 0, 2, 0, 1],
        [9.0, 0, 0, 0, 1],
    ]
)


def prompts(**more: torch.Tensor | None) -> PromptPairs:
    tokens = torch.zeros(4, 3, dtype=torch.int64)
    given = {"distractor": None} | more
    return PromptPairs("mine", tokens, tokens + 1, torch.arange(4), **given)


def test_with_a_distractor_the_answer_is_above_it() -> None:
    pairs = prompts(distractor=torch.full((4,), 4))
    ability = task_ability(measure(LOGITS, pairs), 5)
    assert (ability.solved, ability.chance, ability.needed) == (0.75, 0.5, 0.75)
    assert ability.accuracy == 0.25 and ability.able
    said = "it puts the answer above the wrong one in 75% of the prompts"
    assert ability.said == f"{said} (75% needed, chance 50.0%), accuracy 25.0%"


def test_without_one_the_answer_is_on_top_of_all_tokens() -> None:
    ability = task_ability(measure(LOGITS, prompts()), 5)
    assert (ability.solved, ability.chance) == (0.25, 0.2)
    assert ability.needed == pytest.approx(0.6) and not ability.able
    assert ability.said.endswith(
        "the answer on top in 25% of the prompts (60% needed, chance 20.0%)"
    )


def test_of_several_choices_the_right_ones_have_more_probability() -> None:
    right = torch.tensor([[True, False], [True, False], [True, False], [False, True]])
    pairs = prompts(choices=torch.tensor([0, 4]), right=right, distractor=torch.full((4,), 4))
    ability = task_ability(measure(LOGITS, pairs), 5)
    assert (ability.solved, ability.accuracy, ability.chance) == (0.75, 0.75, 0.5)
    assert ability.able and "right choices above wrong ones in 75%" in ability.said
    assert ability.columns().keys() == {"solved", "chance", "needed", "accuracy", "able"}
