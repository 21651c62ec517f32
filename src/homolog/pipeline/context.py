"""What every stage of a study works with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from homolog.analyses.material import Material
from homolog.engine import Engine, Task
from homolog.pipeline.finish import by_itself
from homolog.progress import Progress
from homolog.record.run_folder import RunFolder


@dataclass(frozen=True)
class Context:
    """A run that is open for writing, what it is made of, and where its tasks run.

    threads: of a task; None: all.  task_bytes: memory that one task may plan with.
    has_rest: whether a run goes on without what fails; else that ends it.
    """

    run: RunFolder
    material: Material
    engine: Engine
    progress: Progress
    threads: int | None
    task_bytes: int
    has_rest: bool = True

    @cached_property
    def checked(self) -> set[str]:
        """Stages whose files were looked at by `is_missing`."""
        return set()

    def is_missing(self, stage: str) -> bool:
        """Whether a stage that several need has to run; its files are checked the first time."""
        new = stage not in self.checked
        self.checked.add(stage)
        return new and not self.run.is_done(stage)

    def tasks(
        self, title: str, function: Callable[..., Any], calls: Sequence[dict[str, Any]]
    ) -> list[Any]:
        """Run `function` on the material, once for each of the calls, as tasks with a bar.

        Paths among what a call is given are made absolute.
        """
        given = [
            {key: v.absolute() if isinstance(v, Path) else v for key, v in call.items()}
            for call in calls
        ]
        tasks = [
            Task(function, {"material": self.material} | call, f"{title} ({n + 1} of {len(given)})")
            for n, call in enumerate(given)
        ]
        with self.bar(title, len(tasks)) as report:
            return self.engine.map(tasks, report)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Callable[[float, int], None]]:
        """A stage of the progress display that is told (done, all)."""
        shown = 0.0
        with self.progress.stage(title, total) as bar:

            def report(done: float, _total: int) -> None:
                nonlocal shown
                bar.advance(done - shown)
                shown = done

            yield report

    def apart(self, work: str) -> Any:
        """Work that the rest of the run does without where it fails (`finish.by_itself`)."""
        return by_itself(self.run, work, self.progress) if self.has_rest else nullcontext()

    @property
    def failed(self) -> dict[str, Any]:
        """What has failed by itself and not succeeded since."""
        return self.run.record.get("failed", {})
