"""Where work runs: in this process, one task after the other, or on Ray, many at a time.

A task is a function at the top level of a module, with small keyword arguments: paths, recipes,
numbers.  What is large it reads from files and writes to files, each atomically (`record.atomic`),
and it returns a small value.  So a task may run anywhere, and more than once, and nothing differs:
its files are the same bytes, and results come in the order of the tasks.

On Ray a task whose worker dies (SIGKILL, lack of memory, a lost node) runs again on another, up to
`on_ray.MAX_RETRIES` times.
What a task raises is not tried again: as in one process, the first failing task in the order of the
tasks decides, and tasks not yet begun are left out.  The number of tasks in Ray's hands is bounded.

Source: Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications", OSDI 2018.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from homolog.engine.connection import connected
from homolog.engine.on_ray import OnRay
from homolog.engine.tasks import Engine, InProcess, Report, Task
from homolog.errors import InputError
from homolog.threads import library_threads

__all__ = ["Engine", "InProcess", "Report", "Task", "open_engine"]


@contextlib.contextmanager
def open_engine(
    ray: str | None = None, threads: int | None = None, workers: int | None = None
) -> Iterator[Engine]:
    """The engine for the duration of the context.

    ray: None, in this process; "local", a Ray of this machine that ends with the context; otherwise
    the address of a cluster, "HOST:PORT" or "auto".  A Ray that this process already uses is taken
    as it is, and stays.
    threads: CPU threads of a task (torch, numba, BLAS; on Ray polars too); None: one on Ray, and no
    limit in this process.
    workers: most tasks at a time on Ray; None: all that fit the CPUs of the machine or the cluster.

    Raises InputError when ray is not installed, when no cluster answers, and for counts that cannot
    be.
    """
    for name, count in (("threads", threads), ("workers", workers)):
        if count is not None and count < 1:
            raise InputError(name, count, "at least one is needed", "Give 1 or more.")
    if ray is None:
        with library_threads(threads):
            yield InProcess()
    else:
        with connected(ray, threads or 1, workers):
            yield OnRay(threads or 1, workers)
