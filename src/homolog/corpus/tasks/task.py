"""What a task says of itself, in the file that makes its prompts; `make.TASKS` lists them all."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from homolog.corpus.tasks.pairs import PromptPairs


@dataclass(frozen=True)
class PromptTask:
    """A kind of prompts, for people and for programs."""

    make: Callable[..., PromptPairs]
    """(vocabulary, n_prompts, *, seed, ...): the prompts, as every task's function gives them."""

    title: str
    """A few words for headings."""

    prompt: str
    """What a prompt is and what it calls for, in one line."""

    source: str
    """Whose prompts these are."""

    @property
    def name(self) -> str:
        """As `make_task` takes it and `PromptPairs.name` says it."""
        return self.make.__name__

    @property
    def options(self) -> list[str]:
        """What the prompts may be made with, beside their number and seed."""
        parameters = inspect.signature(self.make).parameters.values()
        return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "seed"]
