"""Where work runs: in this process, one task after the other, or on Ray, many at a time.

A task is a function at the top level of a module, with small keyword arguments: paths, recipes,
numbers.  What is large it reads from files and writes to files, each atomically (`storage.atomic`),
and it returns a small value.  So a task may run anywhere, and more than once, and nothing differs:
its files are the same bytes, and results come in the order of the tasks.

On Ray a task whose worker dies (SIGKILL, lack of memory, a lost node) runs again on another, up to
`MAX_RETRIES` times.
What a task raises is not tried again: as in one process, the first failing task in the order of the
tasks decides, and tasks not yet begun are left out.  The number of tasks in Ray's hands is bounded.

Source: Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications", OSDI 2018.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import logging.handlers
import os
import pickle
import queue
import secrets
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from homolog.errors import InputError
from homolog.record.atomic import write_text
from homolog.record.process import machine

MAX_RETRIES = 4  # of a task whose worker died; Ray counts kills for lack of memory apart
OBJECT_STORE_BYTES = 128 << 20  # of a local Ray: tasks exchange files, not objects
ANSWER_SECONDS = 5.0  # a cluster has to accept a connection; Ray itself would try for minutes
LIBRARY_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
LOCAL_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # listen on the loopback interface alone, as is Ray's default there
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers run this interpreter, also under `uv run`
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers see the GPUs this process sees
    # and have its priority; Ray's 15 leaves them 4 % of a processor that others want
    "RAY_worker_niceness": "0",
}
logger = logging.getLogger("homolog")


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
        assert "<" not in self.function.__qualname__, (
            f"{self.name}: not at the top level of a module"
        )
        relative = [
            key
            for key, value in self.kwargs.items()
            if isinstance(value, Path) and not value.is_absolute()
        ]
        assert not relative, f"{self.name}: relative paths {relative} mean nothing to a worker"


class Engine:
    """Runs tasks; `open_engine` makes one."""

    def map(
        self, tasks: Sequence[Task], progress: Callable[[int, int], None] | None = None
    ) -> list[Any]:
        """What the tasks return, in their order.

        progress: called with (tasks done, tasks) after each.  Raises what the first failing task
        raised: an `InputError` as it is, another exception with the worker's traceback as a note.
        Raises RuntimeError for a task that is lost for good.
        """
        raise NotImplementedError

    def check_folder(self, folder: Path) -> None:
        """Raise InputError unless every node sees the existing `folder` and has this version of the
        package.
        """
        raise NotImplementedError


class InProcess(Engine):
    """One task after the other, in this process."""

    def map(
        self, tasks: Sequence[Task], progress: Callable[[int, int], None] | None = None
    ) -> list[Any]:
        """See `Engine.map`."""
        results = []
        for task in tasks:
            results.append(task.function(**task.kwargs))
            if progress is not None:
                progress(len(results), len(tasks))
        return results

    def check_folder(self, folder: Path) -> None:
        """Nothing to check: tasks run here."""


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
        self._attempt = self._ray.remote(_attempt)
        most = max((_cpus(node) for node in self._nodes()), default=0)
        if 0 < most < threads:  # a cluster may start its first nodes when tasks wait for them
            raise InputError(
                "threads",
                threads,
                f"no node of this Ray has more than {most:g} CPUs",
                "Give fewer.",
            )

    def map(
        self, tasks: Sequence[Task], progress: Callable[[int, int], None] | None = None
    ) -> list[Any]:
        """See `Engine.map`."""
        results: list[Any] = []
        finished: dict[
            int, _Outcome
        ] = {}  # number of a task -> outcome that waits for the tasks before it
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
                        end = min(
                            end, number + 1
                        )  # tasks before this one may still decide, later ones cannot
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
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        mark = folder.absolute() / f".seen-{secrets.token_hex(4)}"
        task = Task(
            _look,
            {"mark": mark, "version": importlib.metadata.version("homolog")},
            "look at the run folder",
        )
        write_text(mark, "")
        try:
            places = [
                strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
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
        """Tasks in Ray's hands: those that run, and as many in its queue, so that no worker waits
        for this process.
        """
        fit = (
            self._ray.cluster_resources().get("CPU", 0) // self._threads
        )  # asked anew: clusters grow and shrink
        return max(1, int(2 * fit)) if self._workers is None else self._workers

    def _submit(self, task: Task, **options: Any) -> Any:
        payload = self._ray.cloudpickle.dumps(
            (task.function, dict(task.kwargs))
        )  # also functions of a script
        attempt = self._attempt.options(
            num_cpus=self._threads, max_retries=MAX_RETRIES, name=task.name, **options
        )
        return attempt.remote(payload, self._threads)

    def _outcome(self, reference: Any, task: Task) -> _Outcome:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            advice = "Too little memory is the common cause: let fewer workers run."
            lost = RuntimeError(
                f"{task.name}: lost on Ray after {MAX_RETRIES} retries ({error}) {advice}"
            )
            return _Outcome(error=lost)


@contextlib.contextmanager
def open_engine(
    ray: str | None = None, threads: int | None = None, workers: int | None = None
) -> Iterator[Engine]:
    """The engine for the duration of the context.

    ray: None, in this process; "local", a Ray of this machine that ends with the context; otherwise
    the address of a cluster, "HOST:PORT" or "auto".  A Ray that this process already uses is taken
    as it is, and stays.
    threads: CPU threads of a task (torch, numba, BLAS, polars); None: one on Ray, and no limit in
    this process.
    workers: most tasks at a time on Ray; None: all that fit the CPUs of the machine or the cluster.

    Raises InputError when ray is not installed, when no cluster answers, and for counts that cannot
    be.
    """
    for name, count in (("threads", threads), ("workers", workers)):
        if count is not None and count < 1:
            raise InputError(name, count, "at least one is needed", "Give 1 or more.")
    if ray is None:
        with _threads_limited_here(threads):
            yield InProcess()
    else:
        with _connected(ray, threads or 1, workers):
            yield OnRay(threads or 1, workers)


@contextlib.contextmanager
def _connected(address: str, threads: int, workers: int | None) -> Iterator[None]:
    settings = LOCAL_RAY if address == "local" else {}
    with _environment(settings):
        ray = _import_ray(address)
    ours = not ray.is_initialized()
    with _retries_logged():
        try:
            if ours:
                with _environment(settings):
                    _init(ray, address, threads, workers)
            yield
        finally:
            if ours:
                ray.shutdown()


def _import_ray(address: str) -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise InputError(
            "ray",
            address,
            f"the package ray cannot be imported ({error})",
            'Run: pip install "homolog[ray]"',
        ) from None


def _init(ray: Any, address: str, threads: int, workers: int | None) -> None:
    where: dict[str, Any] = {"address": address}
    if address == "local":
        workers = workers or max(1, int(machine()["n_cpus"]) // threads)
        where |= {
            "num_cpus": workers * threads,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    elif address != "auto":
        _check_answers(address)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if address == "local":
            raise
        raise _no_cluster(address, str(error)) from error
    finally:
        if threading.current_thread() is threading.main_thread() and callable(on_sigterm):
            signal.signal(signal.SIGTERM, on_sigterm)  # ray.init put its own there, which exits


def _check_answers(address: str) -> None:
    try:
        parts = urlsplit(address if "://" in address else f"ray://{address}")
        socket.create_connection(
            (parts.hostname or "", parts.port or 0), timeout=ANSWER_SECONDS
        ).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, reason: str) -> InputError:
    return InputError(
        "ray",
        address,
        f'it must be "local", "auto" or the HOST:PORT of a Ray cluster that answers ({reason})',
        "Start one with `ray start --head` and run this on one of its nodes, with "
        "RAY_AUTH_MODE=token if it asks for a "
        "token; or give local.",
    )


@dataclass
class _Outcome:
    """What comes back from a worker: a value or an error, and the warnings logged on the way."""

    value: Any = None
    error: Exception | None = None
    trace: str = ""
    records: list[logging.LogRecord] = field(default_factory=list)

    def unpack(self) -> Any:
        """Log the warnings here and return the value, or raise the error."""
        for record in self.records:
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        if self.error is None:
            return self.value
        if self.trace and not isinstance(self.error, InputError):
            self.error.add_note(f"Raised in a Ray worker:\n{self.trace}")
        raise self.error


def _attempt(payload: bytes, threads: int) -> _Outcome:
    """Run one task in a worker.  The task comes pickled, so that threads are limited before it
    imports anything.
    """
    kept: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    keeper = logging.handlers.QueueHandler(kept)
    keeper.setLevel(logging.WARNING)
    logger.addHandler(keeper)
    outcome = _Outcome()
    try:
        _limit_threads_to_come(threads)
        function, kwargs = pickle.loads(payload)
        _limit_threads(threads)
        outcome.value = function(**kwargs)
    except Exception as error:
        outcome.error, outcome.trace = _portable(error), traceback.format_exc()
    finally:
        logger.removeHandler(keeper)
    outcome.records = [kept.get() for _ in range(kept.qsize())]
    return outcome


def _portable(error: Exception) -> Exception:
    """The error, or where it does not survive pickling a RuntimeError that says it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _look(mark: Path, version: str) -> None:
    """In a worker: is the package the same, and does this node see the file `mark`?"""
    here, found = socket.gethostname(), importlib.metadata.version("homolog")
    if found != version:
        raise InputError(
            f"homolog on {here}",
            found,
            f"it must be {version}, as on the node that started the run",
            "Install one version on all nodes.",
        )
    if not mark.is_file():
        raise InputError(
            "run folder",
            str(mark.parent),
            f"{here} sees another folder there, or none",
            "Give an --out on a file system that all nodes mount at the same path.",
        )


def _limit_threads_to_come(threads: int) -> None:
    """Limit the libraries this process has not loaded yet: they read the environment."""
    names = LIBRARY_THREADS if "numba" in sys.modules else (*LIBRARY_THREADS, "NUMBA_NUM_THREADS")
    os.environ.update(
        dict.fromkeys(names, str(threads))
    )  # numba, once loaded, refuses another value


def _limit_threads(threads: int) -> None:
    """Limit the libraries this process has loaded."""
    if numba := sys.modules.get("numba"):
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _threads_limited_here(threads: int | None) -> Iterator[None]:
    if threads is None:
        yield
        return
    numba, torch = importlib.import_module("numba"), importlib.import_module("torch")
    before = (
        torch.get_num_threads()
    )  # read first: numba, as it starts, sets OpenMP's number, which is torch's too
    before_numba = numba.get_num_threads()
    _limit_threads(threads)
    try:
        yield
    finally:
        numba.set_num_threads(before_numba)
        torch.set_num_threads(before)


@contextlib.contextmanager
def _retries_logged() -> Iterator[None]:
    """Log what Ray would print to standard output when a worker dies: a warning if the task runs
    again.
    """

    def log(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        for line in data["lines"]:
            level = logging.WARNING if "will be retried" in line else logging.INFO
            said = (
                line.strip()
                .partition("\n")[0]
                .replace(f"Task {_attempt.__name__} failed.", "a worker died.")
            )
            logger.log(level, "Ray: %s", said.removesuffix("Error:").strip()[:300])

    private: Any = importlib.import_module(
        "ray._private.worker"
    )  # Ray has no public switch for this
    printer = getattr(private, "print_to_stdstream", None)
    if printer is not None:
        private.print_to_stdstream = log
    try:
        yield
    finally:
        if printer is not None:
            private.print_to_stdstream = printer


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set those of `values` that the user has not set, for the duration of the context."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _cpus(node: Mapping[str, Any]) -> float:
    return node["Resources"].get("CPU", 0.0)
