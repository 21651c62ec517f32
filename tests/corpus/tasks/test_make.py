"""The one entry to all tasks: by name, what it refuses, and what all prompts have in common."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
import torch
from tests.corpus.tasks.helpers import IDS, WINDOW, english, recurring, windows, word_level
from tests.reference.tiny_models import tiny_gpt_neox

from homolog.corpus import tasks
from homolog.corpus.tasks import (
    TASKS,
    associative_recall,
    greater_than,
    induction,
    ioi,
    make_task,
    ordinary_ids,
)
from homolog.errors import InputError
from homolog.models import load_tokenizer
from homolog.models.gpt_neox import GPTNeoX
from homolog.record.circuits import TASK_NAMES

DOCS = Path(__file__).parents[3] / "docs" / "methods-circuits.md"


def test_ids_of_a_model_are_those_its_tokenizer_knows_and_its_embedding_holds() -> None:
    tokenizer = word_level(["a", "b", "c"])
    model = GPTNeoX("tiny", tiny_gpt_neox(), None)
    assert ordinary_ids(model).tolist() == list(range(97))
    assert ordinary_ids(tokenizer).tolist() == [1, 2, 3]
    assert ordinary_ids(GPTNeoX("tiny", tiny_gpt_neox(), tokenizer)).tolist() == [1, 2, 3]
    assert ordinary_ids([4, 2]).tolist() == [2, 4]
    assert make_task("induction", model, 4, length=10).clean.shape == (4, 10)


def test_chunks_of_a_batch() -> None:
    pairs = greater_than(english(), 6)
    part = pairs[2:4]
    assert len(part) == 2 and part.right is not None and part.choices is not None
    assert torch.equal(part.clean, pairs.clean[2:4]) and len(part.right) == 2
    assert torch.equal(part.choices, pairs.choices)
    assert torch.equal(part.positions["year"], pairs.positions["year"][2:4])
    assert torch.equal(pairs[torch.tensor([5, 0])].answer, pairs.answer[[5, 0]])


@pytest.mark.parametrize(
    ("task", "parts"),
    [
        (
            "ioi",
            [
                "name is 'John'",
                "5 or more names as one token each and has 0",
                "' John' as ' J' + 'o' + 'h' + 'n'",
            ],
        ),
        ("greater_than", ["year is '1732'", "' 1732' as ' 1' + '7' + '3' + '2'"]),
    ],
)
def test_a_tokenizer_that_splits_the_words_is_refused_with_the_split(
    task: str, parts: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        make_task(task, load_tokenizer("zoo:transformer-s0"), 4)
    for part in [*parts, "own pairs as JSONL"]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: make_task("inducton", IDS), ["inducton", "Did you mean 'induction'", *TASKS]),
        (lambda: make_task("mine.json", IDS), ["task is 'mine.json'", "or a .jsonl file"]),
        (
            lambda: make_task("induction", IDS, corupt="x"),
            ["corupt", "Did you mean 'corruption'", "first_index"],
        ),
        (
            lambda: induction(IDS, 4, corruption="replaceB"),
            ["replaceB", "Did you mean 'replace_B'"],
        ),
        (lambda: induction(IDS, 0), ["n_prompts", "at least one"]),
        (lambda: induction(IDS, 1, seed=-1), ["seed", "0 or more"]),
        (lambda: induction(IDS, 1, length=4), ["length", "Give 5 or more"]),
        (lambda: induction(IDS, 1, length=8, repeat=4), ["length", "Give 10 or more"]),
        (lambda: induction(IDS, 1, length=10, first_index=7), ["first_index", "Give 0 to 6"]),
        (lambda: induction(range(5), 1), ["5 tokens", "more than 5"]),
        (lambda: induction([1, 1, 2], 1), ["token ids", "different non-negative integers"]),
        (
            lambda: associative_recall(range(20), 1, n_pairs=10),
            ["n_pairs", "there are 20", "Give 8 or fewer"],
        ),
        (lambda: associative_recall(range(20), 1, n_pairs=1), ["n_pairs", "another key"]),
        (
            lambda: ioi(GPTNeoX("tiny", tiny_gpt_neox()), 1),
            ["tokenizer", "tiny", "needs a tokenizer"],
        ),
        (lambda: make_task("natural_induction", english(), 2), ["windows", "pack("]),
        (
            lambda: make_task("natural-induction", english(), windows=windows(WINDOW), max_bigrm=6),
            ["option of natural_induction", "Did you mean 'max_bigram'"],
        ),
        (lambda: recurring(windows(WINDOW), 1, length=10), ["length", "4 to 9"]),
    ],
)
def test_errors_say_what_to_do(call, parts: list[str]) -> None:
    with pytest.raises(InputError) as error:
        call()
    for part in parts:
        assert part in str(error.value)


def test_the_example_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = doctest.testmod(tasks)
    assert ran.attempted > 10 and ran.failed == 0


def test_help_and_settings_name_all_tasks() -> None:
    assert list(TASKS) == list(TASK_NAMES)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_is_made_by_its_name_with_either_dash(task: tasks.PromptTask) -> None:
    tokenizer, options = english(), {"windows": windows(WINDOW), "length": 6}
    options = options if task.name == "natural_induction" else {}
    made, again = (
        make_task(name, tokenizer, 1, seed=3, **options)
        for name in (task.name, task.name.replace("_", "-"))
    )
    assert (made.name, made.seed, len(made)) == (task.name, 3, 1)
    assert torch.equal(made.clean, again.clean)
    assert f"| `{task.name}` | {task.prompt}" in DOCS.read_text(encoding="utf-8")
    for line in (task.title, task.prompt, task.source):
        assert line and "\n" not in line and len(line) < 100


def test_how_many_prompts() -> None:
    assert len(make_task("induction", IDS)) == 256
    assert len(make_task("induction", IDS, 3)) == 3
