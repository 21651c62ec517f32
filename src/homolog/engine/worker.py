"""What runs in a worker of Ray: one task, its threads limited, its warnings and errors kept."""

from __future__ import annotations

import importlib.metadata
import logging
import logging.handlers
import pickle
import queue
import socket
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homolog.errors import InputError
from homolog.memory import keep_freed_memory
from homolog.threads import limit_process

logger = logging.getLogger("homolog")


@dataclass
class Outcome:
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


def attempt(payload: bytes, threads: int) -> Outcome:
    """Run one task, which comes pickled: threads are limited before it imports anything."""
    kept: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    keeper = logging.handlers.QueueHandler(kept)
    keeper.setLevel(logging.WARNING)
    logger.addHandler(keeper)
    outcome = Outcome()
    try:
        limit_process(threads)
        keep_freed_memory()
        function, kwargs = pickle.loads(payload)
        limit_process(threads)  # numba, as it is imported, may have set another number
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


def check_node(mark: Path, version: str) -> None:
    """InputError unless this node has that version of the package, and sees the file `mark`."""
    here, installed = socket.gethostname(), importlib.metadata.version("homolog")
    if installed != version:
        requirement = f"it must be {version}, as on the node that started the run"
        remedy = "Install one version on all nodes."
        raise InputError(f"homolog on {here}", installed, requirement, remedy)
    if not mark.is_file():
        requirement = f"{here} sees another folder there, or none"
        remedy = "Give an --out on a file system that all nodes mount at the same path."
        raise InputError("run folder", str(mark.parent), requirement, remedy)
