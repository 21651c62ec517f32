"""Time and memory of a call, in this process or in one of its own, for the benchmarks."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import platform
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

BUSY = 0.7  # load average above which times say little
LONG = 6.0  # seconds after which nothing is repeated
T = TypeVar("T")


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """(seconds, what the call returns)."""
    begun = time.perf_counter()
    result = function()
    return time.perf_counter() - begun, result


def worked(function: Callable[[], T]) -> tuple[float, T]:
    """(processor seconds, what the call returns): other work on the machine counts little."""
    begun = time.process_time()
    result = function()
    return time.process_time() - begun, result


def fastest(function: Callable[[], object], repeats: int = 3) -> float:
    """Seconds of the fastest of a few calls; fewer where they are long."""
    seconds = [timed(function)[0]]
    while len(seconds) < repeats and sum(seconds) < LONG:
        seconds.append(timed(function)[0])
    return min(seconds)


def peak_beyond(function: Callable[[], T]) -> tuple[float, T]:
    """(peak of resident memory beyond what was there before, in bytes, NaN where not Linux; what
    the call returns).
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except (OSError, AttributeError):
        return math.nan, function()
    before = _resident("VmRSS")
    result = function()
    return _resident("VmHWM") - before, result


def _resident(name: str) -> float:
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024.0 * int(found[1])


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module returns in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def machine() -> str:
    """Processor, cores and memory in words."""
    name, memory = platform.processor() or platform.machine(), ""
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        name = found[1] if found else name
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory = f", {pages / 2**30:.0f} GiB of memory"
    return f"{name}, {len(os.sched_getaffinity(0))} cores{memory}"


def busy() -> str:
    """A warning where other work runs, else nothing."""
    load = os.getloadavg()[0]
    return (
        f"This machine is busy (load {load:.1f}): measure again when it is idle."
        if load > BUSY
        else ""
    )
