"""A study on a real local Ray writes the bytes of one in this process, also when its workers are
killed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import random
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.pipeline.outcome import WHOLE, files, record

from homolog.engine import open_engine
from homolog.pipeline.recipes import parse_recipe
from homolog.pipeline.run_study import run_study
from homolog.progress import SilentProgress
from homolog.record.recipe import Recipe
from homolog.record.run_folder import RunFolder

# Ray is not imported here: its settings are read once, and the engine sets them.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="the package ray is not installed"
    ),
]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return parse_recipe(tomllib.loads(WHOLE), "test")


@pytest.fixture(scope="module")
def here(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study in this process, with as many threads as there are processors."""
    out = tmp_path_factory.mktemp("runs") / "here"
    run_study(recipe, out, SilentProgress())
    return out


@pytest.fixture(scope="module", autouse=True)
def two_workers() -> Iterator[None]:
    """The local Ray that all studies of this module use."""
    with open_engine("local", workers=2):
        yield


def test_a_study_on_ray_writes_the_same_bytes(here: Path, recipe: Recipe, tmp_path: Path) -> None:
    run_study(recipe, tmp_path / "run", SilentProgress(), ray="local")
    assert files(tmp_path / "run") == files(here)
    assert record(tmp_path / "run") == record(here)


KINDS = ("train dictionaries", "encode", "match layer")


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_killed_workers_change_no_byte(
    here: Path, recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, ended, killed = tmp_path / "run", threading.Event(), []
    killer = threading.Thread(target=kill_one_of_each, args=(KINDS, killed, ended))
    killer.start()
    try:
        with caplog.at_level(logging.WARNING, "homolog"):
            run_study(recipe, out, SilentProgress(), ray="local")
    finally:
        ended.set()
        killer.join()
    assert tuple(killed) == KINDS
    assert any("a worker died" in message for message in caplog.messages)
    assert files(out) == files(here) and record(out) == record(here)
    assert RunFolder(out).verify() == []


def kill_one_of_each(kinds: tuple[str, ...], killed: list[str], ended: threading.Event) -> None:
    """Kill a worker in the middle of a task of each kind, one kind after the other."""
    rng = random.Random(0)
    for kind in kinds:
        while kind not in killed and not ended.wait(0.002):
            if at_work(kind):
                time.sleep(rng.uniform(0, 0.05))
                for pid in at_work(kind)[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(kind)


def at_work(kind: str) -> list[int]:
    """Workers of the Ray of this process that run a task whose name begins so."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (
                (path / "cmdline").read_bytes().split(b"\0")[0].decode()
            )  # Ray puts the name of the task there
            if title.startswith(f"ray::{kind}") and os.getpid() == parent(parent(int(path.name))):
                found.append(int(path.name))
    return found


def parent(pid: int) -> int:
    """The process that started this one; a worker's is Ray's daemon, whose own is the one that
    started Ray.
    """
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
