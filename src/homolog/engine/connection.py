"""A connection to Ray: a Ray of this machine, a cluster, or what this process already uses."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from homolog.engine.worker import attempt
from homolog.errors import InputError
from homolog.record.process import machine

OBJECT_STORE_BYTES = 128 << 20  # of a local Ray: tasks exchange files, not objects
ANSWER_SECONDS = 5.0  # a cluster has to accept a connection; Ray itself would try for minutes
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


@contextlib.contextmanager
def connected(address: str, threads: int, workers: int | None) -> Iterator[None]:
    """This process is connected to the Ray at `address`; arguments and errors of `open_engine`."""
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
        requirement = f"the package ray cannot be imported ({error})"
        raise InputError("ray", address, requirement, 'Run: pip install "homolog[ray]"') from None


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
        place = (parts.hostname or "", parts.port or 0)
        socket.create_connection(place, timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, reason: str) -> InputError:
    return InputError(
        "ray",
        address,
        f'it must be "local", "auto" or the HOST:PORT of a Ray cluster that answers ({reason})',
        "Start one with `ray start --head` and run this on one of its nodes, with "
        "RAY_AUTH_MODE=token if it asks for a token; or give local.",
    )


@contextlib.contextmanager
def _retries_logged() -> Iterator[None]:
    """Log what Ray would print when a worker dies: a warning if the task runs again."""
    began = f"Task {attempt.__name__} failed."

    def log(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        for line in data["lines"]:
            level = logging.WARNING if "will be retried" in line else logging.INFO
            said = line.strip().partition("\n")[0].replace(began, "a worker died.")
            logger.log(level, "Ray: %s", said.removesuffix("Error:").strip()[:300])

    # Ray has no public switch for this
    private: Any = importlib.import_module("ray._private.worker")
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
    """Those of `values` that the user has not set, for the duration of the context."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
