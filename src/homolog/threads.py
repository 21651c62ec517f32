"""How many threads the libraries that compute use: set in one place, and given back.

    torch   OpenMP's number, which is torch's, and MKL's inside torch; each thread has its own
    numba   its own number, up to the threads it started with; each thread has its own
    blas    what numpy and scipy multiply with, and all OpenMP; BLAS has one number for all threads
polars reads POLARS_MAX_THREADS as it starts, and nothing changes it later.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import threadpoolctl

Library = Literal["torch", "numba", "blas"]
LIBRARIES: tuple[Library, ...] = ("torch", "numba", "blas")
READ_AT_START = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
)


@contextlib.contextmanager
def library_threads(n: int | None, *libraries: Library) -> Iterator[None]:
    """The libraries with n threads each, and afterwards with as many as before.

    n: None changes nothing.  libraries: all unless named; torch and numba are imported for it.
    What has one number for all threads ("blas") is set where no other thread sets it meanwhile.
    """
    with contextlib.ExitStack() as given_back:
        for library in () if n is None else libraries or LIBRARIES:
            given_back.enter_context(_SETTERS[library](n))
        yield


def limit_process(n: int) -> None:
    """n threads for every library of this process, for good: the loaded ones, and those to come."""
    names = READ_AT_START if "numba" in sys.modules else (*READ_AT_START, "NUMBA_NUM_THREADS")
    os.environ.update(dict.fromkeys(names, str(n)))  # numba, once loaded, refuses another value
    if numba := sys.modules.get("numba"):
        numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
    threadpoolctl.threadpool_limits(n)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(n)


@contextlib.contextmanager
def single_threaded(workers: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Workers in which torch has one thread each, as it has in the calling thread meanwhile.

    workers: as many as torch has threads, unless given.  Products of a thread each are added in one
    order, whatever their number.
    """
    torch = importlib.import_module("torch")
    workers = workers or torch.get_num_threads()
    with (
        library_threads(1, "torch"),
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        yield pool


@contextlib.contextmanager
def _torch(n: int) -> Iterator[None]:
    torch = importlib.import_module("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _numba(n: int) -> Iterator[None]:
    torch, numba = importlib.import_module("torch"), importlib.import_module("numba")
    openmp = torch.get_num_threads()
    before = numba.get_num_threads()  # it starts now, if it had not, and sets OpenMP's number
    torch.set_num_threads(openmp)
    numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)


_SETTERS = {"torch": _torch, "numba": _numba, "blas": threadpoolctl.threadpool_limits}
