"""One process writes a run at a time (flock: the kernel lets go however the process ends)."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from homolog.errors import InputError

_held: dict[Path, int] = {}  # runs that this process writes, with the descriptor of the lock


def hold(path: Path) -> None:
    """Hold the run in the folder `path` for this process.  InputError where another one has it."""
    if _place(path) in _held:
        return
    lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(lock, 20).decode() or "unknown"
        os.close(lock)
        raise InputError(
            "--out",
            str(path),
            f"another process ({owner}) is writing this run",
            "Wait for it to end, or give another --out.",
        ) from None
    _held[_place(path)] = (
        lock  # from here on `let_go` lets go, also when the disk is too full for the next line
    )
    os.truncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())


def let_go(path: Path) -> None:
    """Let others write the run again; nothing where this process does not hold it."""
    lock = _held.pop(_place(path), None)
    if lock is not None:
        os.close(lock)


def _place(path: Path) -> Path:
    return Path(os.path.realpath(path))  # not resolve(), which fails where links go in a circle
