"""A process that keeps what it frees takes its page faults once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import homolog

pytestmark = pytest.mark.skipif(
    os.confstr_names.get("CS_GNU_LIBC_VERSION") is None, reason="glibc alone"
)
MIB, TIMES = 64, 20
PAGES = (MIB << 20) // os.sysconf("SC_PAGE_SIZE")
CODE = f"""
import resource, torch
from homolog.memory import keep_freed_memory

def faults(repeats):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(repeats):
        torch.zeros({MIB} << 18).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults({TIMES})
print(keep_freed_memory(), first, faults({TIMES}))
"""


def printed(**environment: str) -> tuple[bool, int, int]:
    """(whether freed memory is kept, faults of every page of many tensors before and after)."""
    kept = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    kept["PYTHONPATH"] = str(Path(homolog.__file__).parents[1])
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**kept, **environment}, check=True
    )
    said, before, after = done.stdout.split()
    return said == "True", int(before), int(after)


def test_pages_of_freed_tensors_are_used_again():
    said, before, after = printed()
    assert said
    assert before > 0.9 * TIMES * PAGES  # every page of every tensor
    assert after < 0.3 * TIMES * PAGES  # of the first ones


def test_what_the_user_set_stays():
    said, _, after = printed(MALLOC_TRIM_THRESHOLD_="1000000")
    assert not said
    assert after > 0.9 * TIMES * PAGES
