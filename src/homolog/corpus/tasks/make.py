"""`make_task`: one entry to all tasks, by name or by file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from homolog.corpus.tasks.agreement import AGREEMENT
from homolog.corpus.tasks.indirect_object import IOI
from homolog.corpus.tasks.jsonl import read_pairs
from homolog.corpus.tasks.natural import NATURAL_INDUCTION
from homolog.corpus.tasks.nearest import check_choice, known_names
from homolog.corpus.tasks.pairs import PromptPairs, check_count
from homolog.corpus.tasks.random_tokens import ASSOCIATIVE_RECALL, INDUCTION
from homolog.corpus.tasks.task import PromptTask
from homolog.corpus.tasks.years import GREATER_THAN
from homolog.errors import InputError
from homolog.models.base import LanguageModel

N_PROMPTS = 256
FILE = ".jsonl"
"""How the name of a task ends that is a file of one's own prompts."""
TASKS: dict[str, PromptTask] = {
    task.name: task
    for task in (
        INDUCTION,
        NATURAL_INDUCTION,
        IOI,
        GREATER_THAN,
        ASSOCIATIVE_RECALL,
        AGREEMENT,
    )
}


def make_task(
    name: str | Path,
    vocabulary: Any,
    n_prompts: int | None = None,
    *,
    seed: int = 0,
    **options: Any,
) -> PromptPairs:
    """Clean and corrupt prompts of a task.

    name        one of `TASKS`, "greater_than" or "greater-than", or a .jsonl file of one's own
                prompts (`read_pairs` says of what form)
    vocabulary  the model, or its tokenizer; where the model's windows begin with a token, so do
                the prompts
    n_prompts   how many: 256 by default, of a file all; the first ones where it has more
    seed        of what is drawn; nothing is for a file
    options     of the task's own function, for example corruption="unrelated"

    Raises `InputError`: unknown task or option (with the nearest), a tokenizer that splits what
    must be one token, a file that is missing or wrong (with the line), fewer prompts than asked.
    """
    if str(name).endswith(FILE):
        if options:
            requirement = "a task from a file has no options"
            raise InputError("option", next(iter(options)), requirement, "Leave it out.")
        return _begun(_from_file(name, vocabulary, n_prompts), vocabulary)
    task = TASKS[known_task(str(name))]
    for option in options:
        check_choice(f"option of {task.name}", option, task.options)
    count = N_PROMPTS if n_prompts is None else n_prompts
    return _begun(task.make(vocabulary, count, seed=seed, **options), vocabulary)


def known_task(name: str) -> str:
    """The name of a task as `TASKS` has it; of a file its own.  InputError for an unknown one."""
    known = name if name.endswith(FILE) else name.replace("-", "_")
    if known not in TASKS and not name.endswith(FILE):
        requirement = "it must be one of those known, or a .jsonl file"
        raise InputError("task", name, requirement, known_names(name, TASKS))
    return known


def _begun(pairs: PromptPairs, vocabulary: Any) -> PromptPairs:
    return pairs.begun(vocabulary.bos if isinstance(vocabulary, LanguageModel) else None)


def _from_file(path: str | Path, vocabulary: Any, n_prompts: int | None) -> PromptPairs:
    pairs = read_pairs(path, vocabulary)
    n_prompts = len(pairs) if n_prompts is None else n_prompts
    check_count(n_prompts)
    if len(pairs) < n_prompts:
        requirement = f"{path} has {len(pairs)} prompts"
        raise InputError("n_prompts", n_prompts, requirement, f"Ask for {len(pairs)} or fewer.")
    return pairs[:n_prompts]
