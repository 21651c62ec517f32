"""Processes of tests: none outlives its test, and no test fails because a machine is slow.

What is waited for is progress, or the end of a process; `HANGS` bounds only what would otherwise
wait for ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HANGS = 1800.0
"""Seconds after which a wait is a hang, on the slowest machine too."""


@contextlib.contextmanager
def started(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen]:
    """The process, in a group of its own, which at the end is killed as a whole and waited for."""
    process = subprocess.Popen([*map(str, command)], start_new_session=True, **options)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def wait_for(condition: Callable[[], object]) -> None:
    """Until it holds."""
    end = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
