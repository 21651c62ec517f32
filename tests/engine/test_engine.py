"""Tasks give the same values and bytes here and on a real local Ray, whatever dies meanwhile.

In one module, since a Ray takes seconds to start and one serves all these tests.
"""

from __future__ import annotations

import ctypes
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.processes import HANGS, started, wait_for

import homolog
from homolog.engine import Engine, InProcess, Task, on_ray, open_engine
from homolog.engine.worker import check_node
from homolog.errors import InputError
from homolog.progress import share_done
from homolog.record import atomic

# Every worker imports this module, and those that are killed again and again: torch, numba and what
# needs them are imported where they are used.

LAYERS_A, LAYERS_B = 2, 3
logger = logging.getLogger("homolog")


def correlate(a: Path, b: Path, out: Path, mark: Path) -> float:
    """A task as studies have them: two layers from files, correlations to a file, a number back.

    Without `mark` it dies in the middle of its file.  Small whole numbers make the products exact,
    whatever BLAS does.
    """
    x, y = np.load(a), np.load(b)
    covariance = len(x) * (x.T @ y) - np.outer(x.sum(axis=0), y.sum(axis=0))
    best = (covariance / np.outer(x.std(axis=0), y.std(axis=0)) / len(x) ** 2).max(axis=1)
    with atomic.atomic_path(out) as partial:
        partial.write_bytes(best.tobytes()[: best.nbytes // 2])
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        partial.write_bytes(best.tobytes())
    return float(best.max())


def square(n: int) -> int:
    return n * n


def half_by_half(n: int) -> int:
    share_done(0.5)
    return n


def square_at_second_attempt(n: int, mark: Path) -> int:
    if not mark.exists():
        atomic.write_text(mark, str(os.getpid()))
        time.sleep(HANGS)  # the test kills it
    return n * n


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(n: int, after: int | None, begun: Path) -> int:
    """Even n is an error of the user.  after: a task that must have begun first."""
    (begun / str(n)).touch()
    wait_for(lambda: after is None or (begun / str(after)).exists())
    if n % 2 == 0:
        raise InputError("n", n, "it must be odd", "Give another.")
    return n


class Unpicklable(Exception):
    def __reduce__(self) -> str:
        raise TypeError("no")


def fail(kind: str) -> None:
    if kind == "unpicklable":
        raise Unpicklable("the words of it")
    raise KeyError(kind)


def warn(n: int, after: float) -> None:
    time.sleep(after)
    logger.warning("layer %d is odd", n)
    logger.info("not for the user")


def threads_of_libraries() -> dict[str, int | str | None]:
    """Threads of numba, torch and numpy's OpenBLAS, and what a child process would use."""
    import numba
    import torch

    libraries = {
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "openblas64" in line
    }
    blas = ctypes.CDLL(libraries.pop()).scipy_openblas_get_num_threads64_()
    omp = os.environ.get("OMP_NUM_THREADS")
    return {
        "numba": numba.get_num_threads(),
        "torch": torch.get_num_threads(),
        "blas": blas,
        "omp": omp,
    }


def test_a_task_in_this_process_says_what_share_of_it_is_done() -> None:
    tasks = [Task(half_by_half, {"n": n}, "half") for n in range(2)]
    said: list[tuple[float, int]] = []
    assert InProcess().map(tasks, progress=lambda n, of: said.append((n, of))) == [0, 1]
    assert said == [(0.5, 2), (1, 2), (1.5, 2), (2, 2)]
    share_done(0.5)  # outside of a task, or where nobody listens, it says nothing
    assert InProcess().map(tasks) == [0, 1] and len(said) == 4


@pytest.fixture(scope="module")
def ray_engine() -> Iterator[Engine]:
    """One Ray for the whole module: two workers of one thread."""
    with open_engine("local", workers=2) as opened:
        yield opened


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Files of features, 2 and 3 layers of whole numbers: 2,000 tokens, 100 features each."""
    folder = tmp_path_factory.mktemp("features")
    generator = np.random.default_rng(0)
    files: dict[str, list[Path]] = {"a": [], "b": []}
    for name in "a" * LAYERS_A + "b" * LAYERS_B:
        files[name].append(folder / f"{name}{len(files[name])}.npy")
        np.save(files[name][-1], generator.integers(0, 9, size=(2000, 100)).astype(np.float64))
    return files


def pairs(layers: dict[str, list[Path]], out: Path, mark: Callable[[int, int], Path]) -> list[Task]:
    out.mkdir()
    return [
        Task(
            correlate,
            {"a": a, "b": b, "out": out / f"{i}-{j}.best", "mark": mark(i, j)},
            f"pair {i}, {j}",
        )
        for i, a in enumerate(layers["a"])
        for j, b in enumerate(layers["b"])
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[0-9]*.best")}


def test_libraries_of_a_worker_use_the_threads_asked(ray_engine: Engine) -> None:
    tasks = [Task(threads_of_libraries, {}, "threads")] * 4
    assert ray_engine.map(tasks) == [{"numba": 1, "torch": 1, "blas": 1, "omp": "1"}] * 4


def test_a_ray_that_runs_already_is_used_and_kept(ray_engine: Engine) -> None:
    import ray

    with open_engine("auto", threads=2) as another:
        (threads,) = another.map([Task(threads_of_libraries, {}, "threads")])
        assert threads["torch"] == 2 and threads["omp"] == "2"
    assert ray.is_initialized()
    # nobody outside can reach it
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    with pytest.raises(
        InputError, match="threads is 3, but no node of this Ray has more than 2 CPUs"
    ):
        open_engine("auto", threads=3).__enter__()


def test_killed_workers_change_neither_values_nor_bytes(
    ray_engine: Engine,
    layers: dict[str, list[Path]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    here, quiet, killed = (tmp_path / name for name in ("here", "quiet", "killed"))
    expected = InProcess().map(pairs(layers, here, lambda i, j: tmp_path))
    undisturbed = ray_engine.map(pairs(layers, quiet, lambda i, j: tmp_path))
    marks = {(i, j): tmp_path / f"{i}-{j}.killed" for i in range(LAYERS_A) for j in range(LAYERS_B)}
    for pair in [(0, 1), (1, 0), (1, 1), (1, 2)]:
        marks[pair].touch()  # the other two die once
    done: list[tuple[float, int]] = []
    tasks = pairs(layers, killed, lambda i, j: marks[i, j])
    disturbed = ray_engine.map(tasks, progress=lambda n, of: done.append((n, of)))
    x, y = np.load(layers["a"][1]), np.load(layers["b"][2])
    r = np.corrcoef(x.T, y.T)[:100, 100:]
    np.testing.assert_allclose(
        np.frombuffer((here / "1-2.best").read_bytes()), r.max(axis=1), rtol=1e-9
    )
    assert expected == undisturbed == disturbed
    assert len(contents(here)) == LAYERS_A * LAYERS_B
    assert contents(here) == contents(quiet) == contents(killed)
    assert all(mark.exists() for mark in marks.values())
    # what the killed ones had written
    assert len(list(killed.glob(f"{atomic.PARTIAL_PREFIX}*"))) == 2
    assert done == [(n, 6) for n in range(1, 7)]
    wait_for(lambda: sum("a worker died" in message for message in caplog.messages) == 2)
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    assert capfd.readouterr() == ("", "")


def test_a_task_killed_from_outside_runs_again(ray_engine: Engine, tmp_path: Path) -> None:
    def kill_when_begun() -> None:
        wait_for((tmp_path / "pid").exists)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill_when_begun)
    killer.start()
    tasks = [Task(square_at_second_attempt, {"n": 7, "mark": tmp_path / "pid"}, "seven")]
    assert ray_engine.map([*tasks, Task(square, {"n": 8}, "eight")]) == [49, 64]
    killer.join()


def test_a_task_that_always_kills_its_worker_is_named(
    ray_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "MAX_RETRIES", 1)
    with pytest.raises(RuntimeError, match=r"^pair 3, 4: lost on Ray after 1 retries"):
        ray_engine.map([Task(die, {}, "pair 3, 4")])
    assert ray_engine.map([Task(square, {"n": 3}, "after it")]) == [9]


@pytest.mark.parametrize("where", ["here", "ray"])
def test_the_first_failing_task_decides_and_the_rest_is_left_out(
    where: str, ray_engine: Engine, tmp_path: Path
) -> None:
    # 1 is fine; 2 fails, with Ray after 4 has begun, which fails at once; 5 to 45 would be fine
    after = {2: 4} if where == "ray" else {}
    tasks = [
        Task(refuse, {"n": n, "after": after.get(n), "begun": tmp_path}, f"task {n}")
        for n in (1, 2, 4, *range(5, 46, 2))
    ]
    with pytest.raises(
        InputError, match=r"^n is 2, but it must be odd\. Give another\.$"
    ) as caught:
        (InProcess() if where == "here" else ray_engine).map(tasks)
    assert type(caught.value) is InputError
    assert (caught.value.field, caught.value.value) == ("n", 2)
    begun = {int(path.name) for path in tmp_path.iterdir()}
    # two in Ray's hands at a time
    assert {1, 2} <= begun <= ({1, 2} if where == "here" else {1, 2, 4, 5})


def test_other_errors_keep_their_type_and_say_where_they_were_raised(ray_engine: Engine) -> None:
    with pytest.raises(KeyError, match="layer") as caught:
        ray_engine.map([Task(fail, {"kind": "layer"}, "fails")])
    assert type(caught.value) is KeyError
    assert "raise KeyError(kind)" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match=r"^Unpicklable: the words of it\n"):
        ray_engine.map([Task(fail, {"kind": "unpicklable"}, "fails")])


def test_warnings_of_workers_reach_the_log_in_the_order_of_the_tasks(
    ray_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    ray_engine.map(
        [Task(warn, {"n": n, "after": 0.3 if n == 1 else 0.0}, f"layer {n}") for n in (1, 3, 5)]
    )
    assert caplog.record_tuples == [
        ("homolog", logging.WARNING, f"layer {n} is odd") for n in (1, 3, 5)
    ]


def test_a_folder_that_workers_do_not_see_is_named(
    ray_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray_engine.check_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.chdir(tmp_path)  # /proc/self/cwd is now one folder here and another in the workers
    with pytest.raises(
        InputError, match=r"run folder is '/proc/self/cwd', but .* sees another folder there"
    ):
        ray_engine.check_folder(Path("/proc/self/cwd"))
    assert list(tmp_path.iterdir()) == []


def test_another_version_of_the_package_on_a_node_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"homolog on .* is '0\.1\.0', but it must be 9\.9\.9.*Install one version"
    ):
        check_node(atomic.write_text(tmp_path / "mark", ""), "9.9.9")


DRIVER = """
import signal, sys
from pathlib import Path
import waiting
from homolog.engine import Task, open_engine

def handler(number, frame):
    raise SystemExit

signal.signal(signal.SIGTERM, handler)
try:
    with open_engine("local", workers=2) as engine:
        assert signal.getsignal(signal.SIGTERM) is handler
        marks = [Path(sys.argv[1]) / str(n) for n in range(9)]
        engine.map([Task(waiting.wait, {"mark": mark}, mark.name) for mark in marks])
except KeyboardInterrupt:
    print("stopped")
"""
WAITING = """
import os, time

def wait(mark):
    mark.with_suffix(".new").write_text(f"{os.getpid()} {os.getppid()}")
    mark.with_suffix(".new").rename(mark)
    time.sleep(3600)
"""


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_ctrl_c_ends_driver_workers_and_ray_and_prints_nothing_of_ray(tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "waiting.py").write_text(WAITING)
    marks = tmp_path / "marks"
    marks.mkdir()
    command = [sys.executable, str(tmp_path / "driver.py"), str(marks)]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        wait_for(
            lambda: (
                {path.name for path in marks.iterdir()} >= {"0", "1"} or driver.poll() is not None
            )
        )
        os.killpg(driver.pid, signal.SIGINT)  # a terminal interrupts the whole group
        output, errors = driver.communicate()
    assert (output, errors, driver.returncode) == ("stopped\n", "", 0)
    processes = {int(pid) for name in "01" for pid in (marks / name).read_text().split()}
    assert len(processes) == 3  # two workers and the raylet that started them
    wait_for(lambda: not any(alive(pid) for pid in processes))
    assert {path.name for path in marks.iterdir()} == {"0", "1"}


def test_in_process_tasks_run_in_order_and_report() -> None:
    done: list[tuple[int, int]] = []
    with open_engine() as here:
        assert here.map(
            [Task(square, {"n": n}, str(n)) for n in (3, 1, 2)], lambda *n: done.append(n)
        ) == [9, 1, 4]
        assert here.map([]) == []
        here.check_folder(Path("anywhere"))
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_in_process_threads_are_limited_and_given_back() -> None:
    import numba
    import torch

    before = numba.get_num_threads(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with open_engine(threads=1) as here:
            (threads,) = here.map([Task(threads_of_libraries, {}, "threads")])
        assert (threads["numba"], threads["torch"]) == (1, 1)
        assert (numba.get_num_threads(), torch.get_num_threads()) == (before[0], 2)
    finally:
        torch.set_num_threads(before[1])


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(
            InputError, match=r'ray is \'local\', but .* Run: pip install "homolog\[ray\]"$'
        ),
        open_engine("local"),
    ):
        pass


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9", "nonsense", "ray://127.0.0.1:9", "[::1]:9", "host:port"]
)
def test_an_address_without_a_cluster_is_refused_at_once(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with (
        pytest.raises(InputError, match=r"ray is .*HOST:PORT of a Ray cluster") as caught,
        open_engine(address),
    ):
        pass
    assert caught.value.value == address


@pytest.mark.parametrize("counts", [{"threads": 0}, {"workers": -1}])
def test_counts_below_one_are_refused(counts: dict[str, int]) -> None:
    (name,) = counts
    with (
        pytest.raises(InputError, match=f"^{name} is {counts[name]}, but at least one"),
        open_engine(None, **counts),
    ):
        pass


def test_a_task_is_a_function_of_a_module_with_absolute_paths(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="not at the top level"):
        Task(lambda: None, {}, "lambda")
    with pytest.raises(AssertionError, match=r"relative paths \['mark'\]"):
        Task(square_at_second_attempt, {"n": 1, "mark": Path("here")}, "relative")
    task = Task(square_at_second_attempt, {"n": 1, "mark": tmp_path}, "absolute")
    assert pickle.loads(pickle.dumps(task)) == task


def test_a_limit_leaves_the_number_of_threads_as_the_environment_had_it() -> None:
    """Numba, as it starts, sets OpenMP's number for torch too."""
    code = (
        "import torch\n"
        "from homolog.engine import open_engine\n"
        "with open_engine(threads=1):\n"
        "    pass\n"
        "print(torch.get_num_threads())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    environment["PYTHONPATH"] = str(Path(homolog.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split() == ["1"]
