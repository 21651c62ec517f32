"""The prompts of a task as the settings of circuits ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from homolog.corpus.documents import source_files
from homolog.corpus.tasks.make import FILE, TASKS, known_task, make_task
from homolog.corpus.tasks.nearest import check_choice
from homolog.corpus.tasks.pairs import PromptPairs
from homolog.errors import InputError
from homolog.record.circuits import NATURAL_INDUCTION
from homolog.record.recipe import Circuits

FROM_SETTINGS = ("length", "repeat")
"""Options of tasks that are settings of their own."""


def asked_pairs(task: str, vocabulary: Any, settings: Circuits, seed: int) -> PromptPairs:
    """The first `discovery_prompts` of a task; of a file as many as it has."""
    n = min(settings.n_prompts, settings.discovery_prompts)
    if task.endswith(FILE):
        return make_task(task, vocabulary)[:n]
    known = TASKS[known_task(task)]
    given = {name: getattr(settings, name) for name in FROM_SETTINGS} | settings.options
    options: dict[str, Any] = {k: v for k, v in given.items() if k in known.options}
    if known.name == NATURAL_INDUCTION:
        options["windows"] = settings.text
    return make_task(task, vocabulary, n, seed=seed, **options)


def check_tasks(settings: Circuits) -> None:
    """InputError for an unknown task, a file that is missing, an option that no task has."""
    options: list[str] = []
    for task in settings.tasks:
        if task.endswith(FILE):
            if not Path(task).expanduser().is_file():
                requirement = "it must be a JSONL file, and there is none"
                raise InputError("tasks", task, requirement, "Check the path.")
        else:
            options += TASKS[known_task(task)].options
    labels = [task_label(task) for task in settings.tasks]
    if len(set(labels)) < len(labels):
        requirement = "each task needs a name of its own; that of a file is its own without .jsonl"
        raise InputError("tasks", list(settings.tasks), requirement, "Name each task once.")
    known = dict.fromkeys(name for name in options if name not in (*FROM_SETTINGS, "windows"))
    for option in settings.options:
        check_choice(f"option of {', '.join(settings.tasks)}", option, known)


def task_label(task: str) -> str:
    """What a task is called in tables."""
    return Path(task).stem if task.endswith(FILE) else known_task(task)


def task_files(settings: Circuits) -> dict[str, tuple[Path, ...]]:
    """The files that prompts are made of, by what they are in words."""
    files: dict[str, tuple[Path, ...]] = {
        f"the task {task}": (Path(task).expanduser().absolute(),)
        for task in settings.tasks
        if task.endswith(FILE)
    }
    if NATURAL_INDUCTION in map(known_task, settings.tasks):
        files[f"the text {settings.text} of natural_induction"] = source_files(settings.text)
    return files
