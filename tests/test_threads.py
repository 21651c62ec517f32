"""Every library has the threads asked for while it is asked, and afterwards those it had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import homolog

NUMBERS = """
import numba, numpy, scipy.linalg, threadpoolctl, torch
from homolog.threads import library_threads, limit_process, single_threaded

def numbers():
    blas = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    return numba.get_num_threads(), torch.get_num_threads(), *sorted(blas)

def three_each():
    numba.set_num_threads(3)
    threadpoolctl.threadpool_limits(3)
    torch.set_num_threads(3)
"""


def printed(code: str, **environment: str) -> list[str]:
    """The lines of a process of its own: what a library starts with, it reads once."""
    kept = {name: value for name, value in os.environ.items() if "_NUM_THREADS" not in name}
    source = str(Path(homolog.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", NUMBERS + code],
        capture_output=True,
        text=True,
        env={**kept, "PYTHONPATH": source, **environment},
        check=True,
    )
    return done.stdout.splitlines()


THREE = {"NUMBA_NUM_THREADS": "3"}


def test_all_libraries_are_limited_and_given_back_also_after_an_error() -> None:
    code = """
three_each()
print(*numbers())
try:
    with library_threads(2):
        print(*numbers())
        with library_threads(1):
            print(*numbers())
        print(*numbers())
        raise KeyError
except KeyError:
    print(*numbers())
with library_threads(None):
    print(*numbers())
"""
    assert printed(code, **THREE) == ["3 3 3", "2 2 2", "1 1 1", "2 2 2", "3 3 3", "3 3 3"]


def test_numba_never_has_more_threads_than_it_started_with() -> None:
    code = "with library_threads(5, 'numba'):\n    print(numba.get_num_threads())"
    assert printed(code, **THREE) == ["3"]


@pytest.mark.parametrize("library", ["torch", "numba", "blas"])
def test_numba_as_it_starts_sets_openmps_number_and_that_is_undone(library: str) -> None:
    code = f"""
before = torch.get_num_threads()
with library_threads(1, {library!r}):
    pass
print(before, torch.get_num_threads())
"""
    settings = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    assert printed(code, **settings) == ["1 1"]


def test_one_library_alone() -> None:
    code = """
three_each()
with library_threads(1, "blas"):
    numba_has, _, *blas = numbers()
    print(numba_has, *blas)
with library_threads(1, "torch"):
    print(*numbers()[:2])
"""
    assert printed(code, **THREE) == ["3 1", "3 1"]


def test_a_process_is_limited_for_good_with_what_it_loads_later() -> None:
    code = """
import os
three_each()
limit_process(1)
print(*numbers())
print(os.environ["OMP_NUM_THREADS"], os.environ["POLARS_MAX_THREADS"])
"""
    assert printed(code, **THREE) == ["1 1 1", "1 1"]


def test_workers_have_one_thread_each_and_are_as_many_as_torch_had() -> None:
    code = """
torch.set_num_threads(2)
with single_threaded() as pool:
    print(pool._max_workers, torch.get_num_threads(), pool.submit(torch.get_num_threads).result())
with single_threaded(5) as pool:
    print(pool._max_workers)
print(torch.get_num_threads())
"""
    assert printed(code, **THREE) == ["2 1 1", "5", "2"]
