"""Numbers of a training in Weights & Biases (offline) and TensorBoard, read back."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from homolog.dictionaries.trackers import Tracker, opened, tensorboard, weights_and_biases
from homolog.errors import InputError

OFFLINE = """
import sys
from pathlib import Path
from homolog.dictionaries.trackers import weights_and_biases
facts = {"name": "m", "run_id": "abc", "settings": {"kind": "relu"}}
with weights_and_biases("saes", Path(sys.argv[1]), **facts) as track:
    track(512, {"loss": 3.5, "l0": 12.0})
    track(1024, {"loss": 2.5, "l0": 11.0})
"""
READ = """
import json, sys
from wandb.proto import wandb_internal_pb2

# the log of LevelDB: blocks of 32 KiB, pieces with checksum (4 bytes), length (2) and type (1)
def records(data):
    at, whole = 7, b""  # a head of 7 bytes
    while at < len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last piece
            yield whole
            whole = b""

rows, config = [], {}
for data in records(open(sys.argv[1], "rb").read()):
    record = wandb_internal_pb2.Record()
    record.ParseFromString(data)
    if record.history.item:
        items = record.history.item
        rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
    for update in (record.run.config.update, record.config.update):
        config |= {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in update}
print(json.dumps({"rows": rows, "config": config}))
"""


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def python(code: str, *arguments: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return subprocess.run(command, capture_output=True, text=True, env=kept | environment)


def test_tensorboard_files_hold_the_numbers(tmp_path: Path) -> None:
    with tensorboard(tmp_path) as track:
        assert isinstance(track, Tracker)
        track(512, {"loss": 3.5, "l0": 12.0})
        track(1024, {"loss": 2.5, "l0": 11.0})
    assert scalars(tmp_path) == {
        "loss": [(512, 3.5), (1024, 2.5)],
        "l0": [(512, 12.0), (1024, 11.0)],
    }


def test_tensorboard_of_a_training_that_goes_on_shows_every_step_once(tmp_path: Path) -> None:
    for steps in ((1, 2, 3), (2, 3, 4)):  # the second goes on after step 1
        with tensorboard(tmp_path) as track:
            for step in steps:
                track(step, {"loss": 10.0 * steps[0] + step})
    assert scalars(tmp_path)["loss"] == [(1, 11.0), (2, 22.0), (3, 23.0), (4, 24.0)]


def test_weights_and_biases_offline(tmp_path: Path) -> None:
    done = python(
        OFFLINE, tmp_path, WANDB_MODE="offline", WANDB_API_KEY="k" * 40, HOME=str(tmp_path / "home")
    )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("wandb/offline-run-*-abc/run-abc.wandb")
    read = python(READ, file)
    assert read.returncode == 0, read.stderr
    found = json.loads(read.stdout)
    assert [(r["_step"], r["loss"], r["l0"]) for r in found["rows"]] == [
        (512, 3.5, 12.0),
        (1024, 2.5, 11.0),
    ]
    assert found["config"]["kind"] == "relu"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(
        b"k" * 40 in path.read_bytes() for path in files
    )  # the key is nowhere stored


def test_weights_and_biases_without_an_account_say_what_to_do(tmp_path: Path) -> None:
    done = python(
        OFFLINE,
        tmp_path,
        HOME=str(tmp_path / "home"),
        WANDB_MODE="online",
        WANDB_BASE_URL="http://127.0.0.1:9",
    )
    assert done.returncode == 1
    assert "--wandb is 'saes'" in done.stderr and "wandb login" in done.stderr


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
def test_a_missing_package_is_named_with_its_extra(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wandb", "torch.utils.tensorboard", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    options = {"name": "m", "run_id": "a", "settings": {}}
    tracker = (
        weights_and_biases("saes", tmp_path, **options)
        if package == "wandb"
        else tensorboard(tmp_path)
    )
    with (
        pytest.raises(InputError, match=rf'--{package} is .* pip install "homolog\[{package}\]"'),
        tracker,
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_one_tracker_for_all(tmp_path: Path) -> None:
    with opened([]) as track:
        track(1, {"loss": 1.0})
    with opened([tensorboard(tmp_path / "a"), tensorboard(tmp_path / "b")]) as track:
        track(7, {"loss": 1.0})
    assert scalars(tmp_path / "a") == scalars(tmp_path / "b") == {"loss": [(7, 1.0)]}
