"""Words on the command line that nobody can use, and places to write to that are full or gone: one
message, never a traceback.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from homolog import cli

NOT_UTF8 = os.fsdecode(b"caf\xe9")
WITH_A_PATH = [
    (["demo", "--out"], "--out"),
    (["run"], "argument"),
    (["run", "demo", "--out"], "--out"),
    (["match", "a.npz"], "argument"),
    (["match", "a.npz", "b.npz", "--documents"], "--documents"),
    (["match", "a.npz", "b.npz", "--out"], "--out"),
    (["report"], "argument"),
    (["verify"], "argument"),
    (["serve"], "argument"),
    (["figures"], "argument"),
    (["figures", "run", "--out"], "--out"),
    (["neuronpedia", "run", "--creator", "c", "--release", "r", "--out"], "--out"),
    (["rate", "run", "--llm", "http://localhost/v1"], "argument"),
    (["sae", "train"], "argument"),
    (["sae", "train", "zoo:mamba-s0", "--text"], "--text"),
    (["sae", "train", "zoo:mamba-s0", "--tensorboard"], "--tensorboard"),
    (["sae", "eval"], "argument"),
    (["sae", "eval", "folder", "--model"], "--model"),
    (["sae", "convert", "folder", "--to", "sparsify"], "argument"),
    (["circuits", "induction"], "argument"),
    (["zoo", "train", "mamba-s0", "--out"], "--out"),
    (["zoo", "eval"], "argument"),
]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(*arguments: str) -> str:
    """The one line that says why; nothing else happens."""
    found = CliRunner().invoke(cli.app, list(arguments))
    assert (found.exit_code, found.stdout) == (2, ""), found.exception
    assert isinstance(found.exception, SystemExit) and found.stderr.count("\n") == 1
    return found.stderr


@pytest.mark.parametrize(("arguments", "field"), WITH_A_PATH, ids=lambda value: " ".join(value))
@pytest.mark.parametrize("value", [NOT_UTF8, ""], ids=["not-utf8", "empty"])
def test_a_word_that_is_empty_or_not_utf8_is_refused_before_anything_is_done(
    arguments: list[str], field: str, value: str, tmp_path: Path
) -> None:
    said = refused(*arguments, value)
    assert said.startswith(f"homolog: {field} is {value!r}, but it must ")
    assert ("UTF-8" in said) == bool(value)
    assert not list(tmp_path.iterdir())
    if field != "argument":
        assert f"homolog: {field} is " in refused(*arguments[:-1], f"{field}={value}")


@pytest.mark.parametrize("name", ["a" * 300, "loop", "file", "/dev/null", "/dev/null/inside"])
@pytest.mark.parametrize(
    "arguments",
    [["verify"], ["report"], ["serve"], ["run"], ["sae", "eval"], ["circuits", "induction"]],
    ids=" ".join,
)
def test_a_place_that_is_none_is_named(arguments: list[str], name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("x")
    assert name[:20] in refused(*arguments, name)


@pytest.mark.parametrize("name", ["loop", "file", "file/inside", "a" * 300])
def test_a_place_where_no_run_can_be_written_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("x")
    assert name[:20] in refused("demo", "--quiet", "--out", name)


def test_a_recipe_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b'name = "caf\xe9"\n')
    assert "mine.toml" in refused("run", "mine.toml")


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in bash, where `homolog` is the command line and "exit" gives that of the first
    in a pipe.
    """
    start = f'homolog() {{ {sys.executable} -m homolog "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", start + command],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("homolog zoo list | head -0; exit ${PIPESTATUS[0]}", 0, ""),
        ("homolog --help | head -0; exit ${PIPESTATUS[0]}", 0, ""),
        ("homolog zoo list >&-", 0, ""),
        ("homolog zoo list <&-", 0, ""),
        ("homolog zoo list > /dev/full", 2, "no space is left"),
        ("homolog sae --help > /dev/full", 2, "no space is left"),
    ],
)
def test_output_that_goes_nowhere(command: str, code: int, said: str) -> None:
    if "/dev/full" in command and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    done = shell(command)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert said in done.stderr and bool(said) == bool(done.stderr)


@pytest.mark.parametrize(
    "command", ["homolog zoo card mamba-s0", "homolog --help", "homolog verify nowhere-ä"]
)
def test_no_terminal_and_no_letters_beyond_ascii(command: str) -> None:
    done = shell(command, LC_ALL="C", PYTHONIOENCODING="ascii", COLUMNS="1", TERM="dumb")
    assert done.returncode == (2 if "nowhere" in command else 0) and "Traceback" not in done.stderr
    assert done.stdout or done.stderr
