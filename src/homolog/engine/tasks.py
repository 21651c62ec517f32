"""A task, what runs tasks, and the engine of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homolog.progress import shares_to

Report = Callable[[float, int], None]
"""Called with (tasks done, tasks) after each task, and with a part of one where it says so."""


@dataclass(frozen=True)
class Task:
    """One call `function(**kwargs)`; `name` stands in messages.

    function: at the top level of a module that every worker can import.  kwargs: small and
    picklable; paths are absolute, since a worker has a working directory of its own.
    """

    function: Callable[..., Any]
    kwargs: Mapping[str, Any]
    name: str

    def __post_init__(self) -> None:
        importable = "<" not in self.function.__qualname__
        assert importable, f"{self.name}: not at the top level of a module"
        paths = {key: value for key, value in self.kwargs.items() if isinstance(value, Path)}
        relative = [key for key, path in paths.items() if not path.is_absolute()]
        assert not relative, f"{self.name}: relative paths {relative} mean nothing to a worker"


class Engine:
    """Runs tasks; `open_engine` makes one."""

    def map(self, tasks: Sequence[Task], progress: Report | None = None) -> list[Any]:
        """What the tasks return, in their order.

        Raises what the first failing task raised: an `InputError` as it is, another exception with
        the worker's traceback as a note.  Raises RuntimeError for a task that is lost for good.
        """
        raise NotImplementedError

    def check_folder(self, folder: Path) -> None:
        """Raise InputError unless every node sees `folder` and has this version of the package."""
        raise NotImplementedError


class InProcess(Engine):
    """One task after the other, in this process."""

    def map(self, tasks: Sequence[Task], progress: Report | None = None) -> list[Any]:
        """See `Engine.map`."""
        results = []
        for task in tasks:
            with _shares_of(len(results), len(tasks), progress):
                results.append(task.function(**task.kwargs))
            if progress is not None:
                progress(len(results), len(tasks))
        return results

    def check_folder(self, folder: Path) -> None:
        """Nothing to check: tasks run here."""


@contextmanager
def _shares_of(done: int, n_tasks: int, progress: Report | None) -> Iterator[None]:
    """What the task behind `done` others says of itself goes to `progress`."""
    if progress is None:
        yield
    else:
        with shares_to(lambda share: progress(done + share, n_tasks)):
            yield
