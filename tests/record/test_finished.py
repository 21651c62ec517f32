"""What a complete run said is given again while nothing of it was touched, and only then."""

import os
import shutil

import pytest

from homolog.record.finished import NAME, asked, remember, remembered

KEY = asked(b"name = 'demo'\n", {"seed": None, "device": None})
LINES = ["13% of the features have a homolog.", "Report: report/index.html"]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run" / "report").mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "run" / "report" / "index.html").write_text("<html>")
    (tmp_path / "weights").write_bytes(b"weights")
    remember(tmp_path / "run", KEY, LINES, [tmp_path / "weights"])
    return tmp_path / "run"


def rewritten(path):
    """The same bytes, written again."""
    path.write_bytes(path.read_bytes())


def test_an_untouched_run_says_what_it_said(run, monkeypatch):
    assert remembered(run, KEY) == LINES
    (run / ".lock").write_text("another process looked")
    assert remembered(run, KEY) == LINES
    monkeypatch.chdir(run)
    assert remembered(run.relative_to(run), KEY) == LINES


@pytest.mark.parametrize(
    "touch",
    [
        lambda run: rewritten(run / "report" / "index.html"),
        lambda run: rewritten(run / "run.json"),
        lambda run: (run / "report" / "index.html").unlink(),
        lambda run: (run / "csv").mkdir() or (run / "csv" / "matches.csv").write_text("a"),
        lambda run: rewritten(run.parent / "weights"),
        lambda run: (run.parent / "weights").unlink(),
        lambda run: (run / NAME).write_text("not JSON"),
        lambda run: (run / NAME).write_text("[]"),
        lambda run: (run / NAME).unlink(),
        lambda run: os.utime(run / "run.json", ns=(0, 0)),
    ],
)
def test_what_was_touched_is_not_known(run, touch):
    touch(run)
    assert remembered(run, KEY) is None


def test_another_recipe_or_option_is_not_known(run):
    assert remembered(run, asked(b"name = 'other'\n", {"seed": None, "device": None})) is None
    assert remembered(run, asked(b"name = 'demo'\n", {"seed": 1, "device": None})) is None


def test_a_copied_run_is_not_known(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    assert remembered(tmp_path / "copy", KEY) is None
