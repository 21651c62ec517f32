"""The engine that hands tasks to Ray, and takes their outcomes in the order of the tasks."""

from __future__ import annotations

import importlib
import importlib.metadata
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from homolog.engine.tasks import Engine, Report, Task
from homolog.engine.worker import Outcome, attempt, check_node
from homolog.errors import InputError
from homolog.record.atomic import write_text

MAX_RETRIES = 4  # of a task whose worker died; Ray counts kills for lack of memory apart


class OnRay(Engine):
    """Every task is a Ray task of `threads` CPUs.  This process must be connected to Ray."""

    def __init__(self, threads: int, workers: int | None = None) -> None:
        """workers: most tasks at a time, in the whole cluster; None: as many as fit its CPUs.

        Raises InputError when all nodes have fewer than `threads` CPUs: the tasks would wait for
        ever.
        """
        self._ray = importlib.import_module("ray")
        self._threads = threads
        self._workers = workers
        self._attempt = self._ray.remote(attempt)
        most = max((_cpus(node) for node in self._nodes()), default=0)
        if 0 < most < threads:  # a cluster may start its first nodes when tasks wait for them
            requirement = f"no node of this Ray has more than {most:g} CPUs"
            raise InputError("threads", threads, requirement, "Give fewer.")

    def map(self, tasks: Sequence[Task], progress: Report | None = None) -> list[Any]:
        """See `Engine.map`."""
        results: list[Any] = []
        finished: dict[int, Outcome] = {}  # by the task's number: those that wait for earlier ones
        running: dict[Any, int] = {}  # Ray's reference -> number of the task
        submitted, end = 0, len(tasks)
        try:
            while len(results) < end:
                while submitted < end and len(running) < self._at_a_time():
                    running[self._submit(tasks[submitted])] = submitted
                    submitted += 1
                for reference in self._ray.wait(list(running), num_returns=1)[0]:
                    number = running.pop(reference)
                    finished[number] = outcome = self._outcome(reference, tasks[number])
                    if outcome.error is not None:
                        # tasks before this one may still decide, later ones cannot
                        end = min(end, number + 1)
                if progress is not None:
                    progress(len(results) + len(finished), len(tasks))
                while len(results) in finished:
                    results.append(finished.pop(len(results)).unpack())
        finally:
            for reference in running:
                self._ray.cancel(reference, force=True)
        return results

    def check_folder(self, folder: Path) -> None:
        """See `Engine.check_folder`: one worker of every node looks for a new file."""
        affinity = importlib.import_module("ray.util.scheduling_strategies")
        mark = folder.absolute() / f".seen-{secrets.token_hex(4)}"
        version = importlib.metadata.version("homolog")
        task = Task(check_node, {"mark": mark, "version": version}, "look at the run folder")
        write_text(mark, "")
        try:
            places = [
                affinity.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                for node in self._nodes()
                if _cpus(node) >= self._threads
            ]
            for reference in [self._submit(task, scheduling_strategy=place) for place in places]:
                self._outcome(reference, task).unpack()
        finally:
            mark.unlink()

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _at_a_time(self) -> int:
        """Tasks in Ray's hands: those that run and as many that wait, so that no worker does.

        Asked anew before each task: clusters grow and shrink.
        """
        fitting = self._ray.cluster_resources().get("CPU", 0) // self._threads
        return max(1, int(2 * fitting)) if self._workers is None else self._workers

    def _submit(self, task: Task, **options: Any) -> Any:
        # by value where they have to be, as the functions of a script
        payload = self._ray.cloudpickle.dumps((task.function, dict(task.kwargs)))
        remote = self._attempt.options(
            num_cpus=self._threads, max_retries=MAX_RETRIES, name=task.name, **options
        )
        return remote.remote(payload, self._threads)

    def _outcome(self, reference: Any, task: Task) -> Outcome:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            lost = f"{task.name}: lost on Ray after {MAX_RETRIES} retries ({error})"
            advice = "Too little memory is the common cause: let fewer workers run."
            return Outcome(error=RuntimeError(f"{lost} {advice}"))


def _cpus(node: Mapping[str, Any]) -> float:
    return node["Resources"].get("CPU", 0.0)
