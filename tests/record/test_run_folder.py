"""A run is continued, never mixed with another, and never trusts a file that is not as it was
written.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from homolog.errors import InputError
from homolog.record.atomic import write_text
from homolog.record.names import folder_name
from homolog.record.run_folder import RunFolder, recipe_hash
from homolog.record.tables import CONTEXTS, MATCHES

RECIPE = {"sae": {"epochs": 6, "l1": 5.0}, "run": {"seed": 0}}

WRITER = """
import sys, time
from homolog.record.tables import CONTEXTS, MATCHES
from homolog.record.run_folder import RunFolder
from homolog.record.atomic import write_text, atomic_path
folder = RunFolder.open(sys.argv[1], {"run": {"seed": 0}})
with folder.stage("first", [folder.path / "first.txt"]):
    write_text(folder.path / "first.txt", "complete")
with folder.stage("second", [folder.path / "second.txt"]):
    with atomic_path(folder.path / "second.txt") as partial:
        partial.write_text("half")
        print("writing", flush=True)
        time.sleep(3600)  # the test kills it
"""


@pytest.fixture
def folder(tmp_path: Path):
    opened = RunFolder.open(tmp_path / "run", RECIPE)
    yield opened
    opened.close()


def run_stage(folder: RunFolder, name: str, text: str = "bytes") -> Path:
    path = folder.path / f"{name}.txt"
    with folder.stage(name, [path]) as facts:
        facts["rows"] = 3
        write_text(path, text)
    return path


def test_paths(folder: RunFolder) -> None:
    root = folder.path
    assert folder.sae_folder("zoo:mamba-s0", 3) == root / "saes" / "mamba-s0" / "3"
    assert folder.sae_folder("mamba-s0", 3, "seed1") == root / "saes" / "mamba-s0@seed1" / "3"
    assert (
        folder.feature_folder("mamba-s0", 0, "rotated")
        == root / "features" / "mamba-s0@rotated" / "0"
    )
    assert folder.residuals_folder("a/b") == root / "cache" / "residuals" / "a--b"
    assert folder.table(MATCHES) == folder.table("matches") == root / "matches.parquet"
    assert folder.table(CONTEXTS, "a/b", 2) == root / "contexts" / "a--b" / "2.parquet"
    assert folder.folder_of(CONTEXTS) == root / "contexts"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("EleutherAI/pythia-160m", "EleutherAI--pythia-160m"),
        ("zoo:mamba-s0", "mamba-s0"),
        ("../../etc", "--..--etc"),
        ("a b<c>", "a-b-c-"),
        ("..", "model"),
    ],
)
def test_model_names_become_one_folder_name(model: str, name: str) -> None:
    assert folder_name(model) == name
    assert "/" not in name


def test_a_done_stage_is_known_again(folder: RunFolder) -> None:
    assert not folder.is_done("tokens")
    run_stage(folder, "tokens")
    again = RunFolder.open(folder.path, RECIPE)
    assert again.is_done("tokens")
    assert again.facts("tokens") == {"rows": 3}
    stage = json.loads(folder.run_json.read_text())["stages"]["tokens"]
    assert stage["status"] == "done"
    assert stage["seconds"] >= 0
    assert stage["peak_bytes"] > 1_000_000
    assert again.verify() == []


def test_versions_recipe_and_facts_are_recorded(folder: RunFolder) -> None:
    folder.note(device="cpu", pair=["transformer-s0", "mamba-s0"])
    record = RunFolder(folder.path).record
    assert record["recipe"] == RECIPE
    assert record["recipe_hash"] == recipe_hash(RECIPE)
    assert record["versions"]["python"].split(".")[0] == "3"
    assert (record["device"], record["pair"]) == ("cpu", ["transformer-s0", "mamba-s0"])
    assert record["machine"]["n_cpus"] >= 1
    with pytest.raises(AssertionError):
        folder.note(stages={})


def test_a_failed_stage_is_not_done(folder: RunFolder) -> None:
    with pytest.raises(ZeroDivisionError), folder.stage("tokens", [folder.path / "tokens.txt"]):
        raise ZeroDivisionError("by zero")
    assert not folder.is_done("tokens")
    assert folder.verify() == ["stage 'tokens': failed"]
    run_stage(folder, "tokens")
    assert folder.verify() == []


def test_ctrl_c_is_recorded_as_an_interruption(folder: RunFolder) -> None:
    with pytest.raises(KeyboardInterrupt), folder.stage("tokens", []):
        raise KeyboardInterrupt
    assert folder.verify() == ["stage 'tokens': interrupted"]


def test_a_stage_that_does_not_write_what_it_promised_is_not_done(folder: RunFolder) -> None:
    with (
        pytest.raises(FileNotFoundError, match="without writing"),
        folder.stage("s", [folder.path / "x"]),
    ):
        pass
    assert not folder.is_done("s")


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_damaged_output_is_named_and_rebuilt(
    folder: RunFolder, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = run_stage(folder, "tokens")
    if damage == "altered":
        path.write_text("bytez")
    else:
        path.unlink()
    (problem,) = folder.verify()
    assert problem.startswith("tokens.txt: ")
    with caplog.at_level(logging.WARNING, "homolog"):
        assert not folder.is_done("tokens")
    assert "tokens.txt" in caplog.text
    assert "run again" in caplog.text
    run_stage(folder, "tokens")
    assert folder.is_done("tokens")
    assert folder.record["rebuilt"] == [f"tokens: {problem.split(' (stage')[0]}"]


def test_folders_are_checked_file_by_file(folder: RunFolder) -> None:
    sae = folder.sae_folder("mamba-s0", 0)
    with folder.stage("sae", [sae]):
        write_text(sae / "cfg.json", "{}")
        write_text(sae / "weights", "w")
    assert folder.is_done("sae")
    (sae / "weights").write_text("v")
    assert not folder.is_done("sae")


def test_a_removed_cache_is_no_problem(folder: RunFolder) -> None:
    cache = folder.residuals_folder("mamba-s0")
    with folder.stage("residuals", [cache]):
        write_text(cache / "part-0", "w")
    folder.drop_cache()
    assert not cache.exists()
    assert folder.verify() == []
    assert not folder.is_done("residuals")


def test_another_recipe_is_refused_and_the_difference_named(folder: RunFolder) -> None:
    before = folder.run_json.read_bytes()
    other = {"sae": {"epochs": 8, "l1": 5.0}, "run": {"seed": 0, "device": "cuda"}}
    with pytest.raises(InputError) as raised:
        RunFolder.open(folder.path, other)
    message = str(raised.value)
    assert "--out" in message
    assert recipe_hash(RECIPE)[:8] in message
    assert recipe_hash(other)[:8] in message
    assert "sae.epochs (6 there, 8 now)" in message
    assert "run.device (None there, 'cuda' now)" in message
    assert "l1" not in message
    assert folder.run_json.read_bytes() == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(InputError, match=r"other files \(thesis\.tex\)"):
        RunFolder.open(tmp_path, RECIPE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_record_rebuilds_everything(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    run_stage(folder, "tokens")
    folder.run_json.write_text(folder.run_json.read_text()[:50])
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        RunFolder(folder.path)
    again = RunFolder.open(folder.path, RECIPE)
    assert "damaged" in caplog.text
    assert not again.is_done("tokens")


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"with a run\.json in it"):
        RunFolder(tmp_path)


@pytest.mark.parametrize("below", ["/proc/homolog", "file/run"])
def test_a_place_that_cannot_be_written(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(InputError, match="Give another --out"):
        RunFolder.open(tmp_path / below, RECIPE)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_space_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="no space is left"):
        RunFolder.open(tmp_path / "runs" / "demo", RECIPE)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_continues_and_two_never_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"writing\n"
    with pytest.raises(InputError, match=rf"another process \({writer.pid}\) is writing this run"):
        RunFolder.open(path, {"run": {"seed": 0}})
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert any("half-written" in problem for problem in RunFolder(path).verify())
    folder = RunFolder.open(path, {"run": {"seed": 0}})
    assert folder.is_done("first")
    assert not folder.is_done("second")
    assert not (path / "second.txt").exists()
    assert folder.verify() == ["stage 'second': interrupted"]
    folder.close()
