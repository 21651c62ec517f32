"""`make_task`: one entry to all tasks, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from homolog.corpus.tasks.jsonl import read_pairs
from homolog.corpus.tasks.natural import natural_induction
from homolog.corpus.tasks.nearest import check_choice
from homolog.corpus.tasks.pairs import PromptPairs, tokenizer_of
from homolog.corpus.tasks.random_tokens import associative_recall, induction
from homolog.corpus.tasks.templates import greater_than, ioi
from homolog.corpus.tokenizers import fingerprint
from homolog.corpus.windows import TokenWindows
from homolog.errors import InputError


def _from_windows(
    vocabulary: Any, n_prompts: int, *, windows: TokenWindows | None = None, **options: Any
) -> PromptPairs:
    tokenizer = tokenizer_of(vocabulary, "natural_induction")
    if windows is None:
        raise InputError(
            "windows",
            None,
            "natural_induction takes its prompts from text",
            'Give windows=pack(read_documents("FILE"), tokenizer, context=256).',
        )
    if windows.tokenizer_fingerprint != fingerprint(tokenizer):
        raise InputError(
            "windows",
            f"tokenizer {windows.tokenizer_fingerprint[:8]}",
            f"the model has another tokenizer ({fingerprint(tokenizer)[:8]})",
            "Pack the text with the model's own.",
        )
    return natural_induction(windows, n_prompts, **options)


TASKS: dict[str, Callable[..., PromptPairs]] = {
    "induction": induction,
    "natural_induction": _from_windows,
    "ioi": ioi,
    "greater_than": greater_than,
    "associative_recall": associative_recall,
}


def make_task(
    name: str | Path, vocabulary: Any, n_prompts: int = 256, *, seed: int = 0, **options: Any
) -> PromptPairs:
    """Clean and corrupt prompts of a task.

    name        one of `TASKS`, or a .jsonl file of the user's own prompts (its first `n_prompts`)
    vocabulary  the model, or its tokenizer
    options     of the task's own function, for example corruption="unrelated"
    Raises `InputError`: unknown task or option (with the nearest), a tokenizer that splits what must be one token,
    fewer prompts than asked for.
    """
    if str(name).endswith(".jsonl"):
        if options:
            raise InputError(
                "option", next(iter(options)), "a task from a file has no options", "Leave it out."
            )
        pairs = read_pairs(name, vocabulary)
        if len(pairs) < n_prompts:
            raise InputError(
                "n_prompts",
                n_prompts,
                f"{name} has {len(pairs)} prompts",
                f"Ask for {len(pairs)} or fewer.",
            )
        return pairs[:n_prompts]
    check_choice("task", str(name), TASKS)
    make = TASKS[str(name)]
    known = _options(make) | (_options(natural_induction) if make is _from_windows else {})
    for option in options:
        check_choice(f"option of {name}", option, known)
    return make(vocabulary, n_prompts, seed=seed, **options)


def _options(function: Callable[..., Any]) -> dict[str, None]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "seed"}
