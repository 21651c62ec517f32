"""The command line as a user meets it: in a process of its own, by its exit code and what it
prints.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.help import help_without
from tests.processes import started
from tests.serve.study import served
from typer.testing import CliRunner

from homolog import cli
from homolog.cli import commands
from homolog.errors import InputError
from homolog.record.atomic import write_text
from homolog.record.built_in import built_in_recipes
from homolog.record.circuits import TASK_NAMES
from homolog.record.run_folder import RunFolder
from homolog.serve import make_server

HOMOLOG = [sys.executable, "-c", "from homolog.cli import main; main()"]


def homolog(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*HOMOLOG, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"}
    )


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    folder = RunFolder.open(tmp_path / "run", {"name": "small"})
    with folder.stage("report", [folder.report_folder]):
        write_text(folder.report_folder / "index.html", "<p>a report</p>")
    yield folder
    folder.close()


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    said = help_without({"torch", "transformers", "numba", "polars", "altair", "numpy", "pydantic"})
    for command in ("demo", "run", "report", "serve", "verify", "doctor", "zoo"):
        assert f" {command} " in said


def test_help_names_the_recipes_and_tasks_that_ship() -> None:
    heavy = {"torch", "transformers", "numba", "polars"}
    said = help_without(heavy, "run")
    assert all(name in said for name in built_in_recipes())
    said = help_without(heavy, "circuits")
    assert all(name in said for name in TASK_NAMES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "dmeo"], "Built in: controls, demo, dictionary-grid, grid, over-training, paper"),
        (["verify", "/nowhere"], "with a run.json in it"),
        (["report", "/nowhere"], "run"),
        (["zoo", "card", "mamba-s9"], "The zoo holds: transformer-s0"),
        (["zoo", "card", "mamba-random"], "with a card"),
        (["run"], "Missing argument"),
        (["demo", "--seed", "-1"], "--seed"),
        (["dmeo"], "No such command"),
    ],
)
def test_unusable_input_is_one_message_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = homolog(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recipe_with_a_misspelt_key(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        '[[models]]\nref = "x"\n[[models]]\nref = "y"\n[corpus]\nsource = "s"\ncontxt = 3\n'
    )
    done = homolog("run", recipe, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert not (tmp_path / "run").exists()
    assert done.stderr.count("\n") == 1


def test_verify(run: RunFolder) -> None:
    done = homolog("verify", run.path)
    assert (done.returncode, done.stdout) == (0, "1 files of 1 stages: all as written.\n")
    (run.report_folder / "index.html").write_text("<p>another</p>")
    done = homolog("verify", run.path)
    assert done.returncode == 1
    assert "report/index.html: damaged" in done.stdout


def test_doctor_and_zoo_list() -> None:
    doctor = CliRunner().invoke(cli.app, ["doctor"])
    assert doctor.exit_code == 0
    for topic in ("Python", "torch", "numba", "GPU", "selective scan", "bfloat16"):
        assert topic in doctor.stdout
    zoo = CliRunner().invoke(cli.app, ["zoo", "list"])
    assert "zoo:mamba-random" in zoo.stdout
    assert "made from its seed" in zoo.stdout


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(commands, "_study", fail)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "to continue, give the same command again"),
        (
            InputError("x", 1, "it must be 2", "Make it 2."),
            2,
            "homolog: x is 1, but it must be 2. Make it 2.",
        ),
        (OSError(28, "No space left on device", "/data/run"), 2, "no space is left"),
        (PermissionError(13, "Permission denied", "/data/run"), 2, "no permission to write there"),
    ],
)
def test_what_stops_a_command(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    failing(monkeypatch, error)
    result = CliRunner().invoke(cli.app, ["demo"])
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_defect_keeps_its_traceback_and_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError("a defect"))
    result = CliRunner().invoke(cli.app, ["demo"])
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_cleanly(number: signal.Signals) -> None:
    code = (
        "import time\nfrom homolog.cli import commands\n"
        "def wait(*arguments):\n    print('working', flush=True)\n    time.sleep(3600)\n"
        "commands._study = wait\nimport sys\nsys.argv = ['homolog', 'demo', '--out', 'my "
        "runs/a']\ncommands.main()\n"
    )
    command = [sys.executable, "-c", code]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(number)
        _, complaint = process.communicate()
    assert process.returncode == 130
    assert "homolog demo --out 'my runs/a'" in complaint
    assert "Traceback" not in complaint


@pytest.fixture
def address(run: RunFolder) -> Iterator[str]:
    write_text(run.path.parent / "secret.txt", "secret")
    (run.path / "link.txt").symlink_to(run.path.parent / "secret.txt")
    with served(run.path, None) as address:
        yield address


def get(url: str, host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def test_serve_gives_the_run_folder_and_nothing_else(address: str) -> None:
    assert get(f"{address}/") == (200, "<p>a report</p>")
    assert get(f"{address}/run.json")[0] == 200
    for path in (
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/link.txt",
        "/.lock",
        "/report/",
        "/nothing",
    ):
        assert get(address + path)[0] == 404, path
    assert get(f"{address}/run.json", host="evil.example")[0] == 403


def test_serve_binds_to_loopback(run: RunFolder) -> None:
    with make_server(run.path) as server:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(InputError, match="--port"):
            make_server(run.path, server.server_port)
