"""Whatever happens to a study, it ends with the bytes of an undisturbed one: kills, flipped bits, a
full disk.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline import killed
from tests.pipeline.outcome import WHOLE, files, record

from homolog import dictionaries
from homolog.analyses import ANALYSES
from homolog.errors import InputError
from homolog.pipeline.recipes import load_recipe
from homolog.pipeline.run_study import run_study
from homolog.progress import SilentProgress
from homolog.record.recipe import Recipe
from homolog.record.run_folder import RunFolder
from homolog.record.tables import LAYERS, MATCHES, RESAMPLED, SAES, SHARED, SUMMARY, VARIANCE

ROOT = Path(__file__).parents[2]
MAIN = "match main.transformer-s0@sae.transformer-s1@sae"
TOKENS = "match tokens.transformer-s0@sae.current-token@sae"
NEURONS = "match neurons.transformer-s0@neuron.transformer-s1@neuron"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="uses clocks and disks of Linux"),
]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "faults.toml"
    path.write_text(WHOLE)
    return path


@pytest.fixture(scope="module")
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file)


@pytest.fixture(scope="module")
def runs(
    recipe_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder of `killed`: an undisturbed run, stopped ones, one killed often; what happened."""
    folder = tmp_path_factory.mktemp("runs")
    one = dict.fromkeys(
        ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1"
    )
    command = [sys.executable, "-m", "tests.pipeline.killed", str(recipe_file), str(folder), "0"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | one, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.fixture
def whole(runs: tuple[Path, dict[str, Any]]) -> Path:
    """The undisturbed run; reports of this process are made as its report was."""
    return runs[0] / "whole"


def study(recipe: Recipe, out: Path) -> None:
    run_study(recipe, out, SilentProgress(), threads=1)


def test_kills_change_no_byte(runs: tuple[Path, dict[str, Any]], recipe: Recipe) -> None:
    folder, happened = runs
    kills = happened["kills"]
    stages = [stage["name"] for stage in happened["course"]]
    assert [kill["signal"] for kill in kills] == [9] * (len(stages) + killed.WRITING)
    hit = [kill["stage"] for kill in kills]
    analyses = {a.name for a in ANALYSES if a.measure is not None and a.wanted(recipe)}
    made = {"dictionaries", "features", "match", "neurons", "tables", "report"} | analyses
    assert made <= {name.split()[0] for name in stages}
    assert len(set(hit)) >= len(stages) - 5  # in a short one a kill may come too late
    at_work = [kill["running"] for kill in kills]
    after = dict(pairwise(stages))  # which may be on record, and have not said so yet
    assert all(
        running in ([], [stage], [after.get(stage)])
        for running, stage in zip(at_work, hit, strict=True)
    ), (at_work, hit)
    between = [running for running in at_work if not running]  # or before the first stage
    assert len(between) <= 5
    writing = [kill["half_written"] for kill in kills if kill["moment"]["writing"]]
    assert all(writing) and any(name.endswith(".parquet") for names in writing for name in names)
    assert analyses & {kill["stage"] for kill in kills if kill["moment"]["writing"]}
    assert files(folder / "killed") == files(folder / "whole")
    assert record(folder / "killed") == record(folder / "whole")
    assert RunFolder(folder / "killed").verify() == []
    asked = [table for analysis in ANALYSES if analysis.name in stages for table in analysis.tables]
    tables = [MATCHES, LAYERS, SUMMARY, SAES, SHARED, RESAMPLED, VARIANCE, *asked]
    assert {name.split("/")[0] for name in files(folder / "killed")} == {
        "features",
        "null",
        "saes",
        "report",
        "vocabulary.json",
        "crosscoders",
    } | {table.file.split("/")[0] for table in tables}


# Kind of file -> the stage at whose end the run was stopped (None: it was not), and the files.
KINDS = {
    "residuals": ("dictionaries transformer-s1", "cache/residuals/*/*/part-*.safetensors"),
    "dictionary in work": ("dictionaries transformer-s1", "saes/transformer-s1*/*/*"),
    "dictionaries' receipt": (
        "dictionaries transformer-s1",
        "cache/training/transformer-s1-*.json",
    ),
    "features part in work": ("features transformer-s0", "features/*/*/part-*.safetensors"),
    "columns": (MAIN, "cache/columns/*/*.safetensors"),
    "pairs": (MAIN, "cache/pairs/main.*/*.safetensors"),
    "current token": (TOKENS, "cache/current-token/*"),
    "neurons part": (NEURONS, "cache/neurons/*/*/part-*.safetensors"),
    "neurons manifest": (NEURONS, "cache/neurons/*/*/manifest.json"),
    "part of a table": ("tables", "cache/tables/*.parquet"),
    "part of an analysis": ("features", "cache/analyses/features/*/*/*.parquet"),
    "receipt of an analysis": ("causal", "cache/analyses/causal/*/*/receipt.json"),
    "part of a layer": ("scatter", "scatter/*/*.parquet"),
    "features part": (None, "features/*/*/part-*.safetensors"),
    "features manifest": (None, "features/*/*/manifest.json"),
    "features statistics": (None, "features/*/*/statistics.safetensors"),
    "features documents": (None, "features/*/*/document.safetensors"),
    "dictionary": (None, "saes/*/*/sae_weights.safetensors"),
    "dictionary's facts": (None, "saes/*/*/cfg.json"),
    "table": (None, "*.parquet"),
    "table of a layer": (None, "contexts/*/*.parquet"),
    "report": (None, "report/**/*.*"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_named_and_made_again(
    kind: str,
    whole: Path,
    recipe: Recipe,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped, pattern = KINDS[kind]
    out, rng = tmp_path / "run", random.Random(kind)
    killed.copy_run(whole if stopped is None else whole.parent / "stopped" / stopped, out)
    path = rng.choice(sorted(path for path in out.glob(pattern) if path.stat().st_size))
    name = path.relative_to(out).as_posix()
    flip(path, rng)
    stages = RunFolder(out).record["stages"]
    again = next((stage for stage, entry in stages.items() if name in entry["outputs"]), stopped)
    assert again is not None
    if stopped is None:
        assert RunFolder(out).verify() == [
            f"{name}: damaged (its SHA-256 is not the recorded one) (stage {again!r})"
        ]
    else:
        stop_after(again, monkeypatch)
    with contextlib.suppress(Stopped), caplog.at_level(logging.WARNING, "homolog"):
        study(recipe, out)
    assert any(name in message and "damaged" in message for message in caplog.messages)
    made, expected = (RunFolder(folder).record["stages"][again] for folder in (out, whole))
    assert made["status"] == "done"
    if stopped is None:
        assert files(out) == files(whole) and RunFolder(out).verify() == []
    else:
        assert made["outputs"] == expected["outputs"] and name not in expected


def test_groups_of_layers_that_are_finished_are_not_trained_again(
    whole: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, out = "dictionaries transformer-s1", tmp_path / "run"
    killed.copy_run(whole.parent / "stopped" / stage, out)
    receipts = sorted(out.glob("cache/training/transformer-s1-*.json"))
    first, last = map(int, receipts[-1].stem.split("-")[-2:])
    receipts[-1].unlink()  # as if the run was killed before its last group was finished
    trained: list[list[int]] = []

    def train(
        source: Any, *args: Any, real: Callable[..., Any] = dictionaries.train, **kwargs: Any
    ) -> Any:
        trained.append(list(source.layer_numbers))
        return real(source, *args, **kwargs)

    monkeypatch.setattr(dictionaries, "train", train)
    stop_after(stage, monkeypatch)
    with pytest.raises(Stopped):
        study(recipe, out)
    assert trained == [list(range(first, last + 1))]
    assert (
        RunFolder(out).record["stages"][stage]["outputs"]
        == RunFolder(whole).record["stages"][stage]["outputs"]
    )


class Stopped(Exception):
    """The study was stopped here."""


def stop_after(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop every study when it has finished this stage."""
    real = RunFolder.stage

    @contextlib.contextmanager
    def stage(run: RunFolder, now: str, outputs: Any) -> Iterator[dict[str, Any]]:
        with real(run, now, outputs) as facts:
            yield facts
        if now == name:
            raise Stopped

    monkeypatch.setattr(RunFolder, "stage", stage)


def flip(path: Path, rng: random.Random) -> None:
    """One random bit of a file, in a new file: the old one may have other names."""
    data = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.unlink()
    path.write_bytes(data)


def test_a_flipped_bit_of_the_record_is_found(whole: Path, tmp_path: Path) -> None:
    rng, path, whole_record = random.Random(0), tmp_path / "run.json", RunFolder(whole).record
    refused = 0
    for _ in range(300):
        path.write_bytes((whole / "run.json").read_bytes())
        flip(path, rng)
        try:
            assert RunFolder(tmp_path).record == whole_record  # as 1e-05 turned into 1E-05
        except InputError as error:
            assert "its run.json is damaged" in str(error)
            refused += 1
    assert refused > 290


def test_a_damaged_record_is_named_and_the_run_made_again(
    whole: Path, recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, rng = tmp_path / "run", random.Random(1)
    killed.copy_run(whole, out)
    flip(out / "run.json", rng)
    with caplog.at_level(logging.WARNING, "homolog"):
        study(recipe, out)
    assert f"{out / 'run.json'} is damaged: every stage of this run is rebuilt" in caplog.messages
    assert files(out) == files(whole) and record(out) == record(whole)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Gives a disk of so many MiB; called again, the same one with another size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def sized(size: int) -> Path:
        nonlocal mounted
        options = f"{'remount,' * mounted}size={size}m"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
            capture_output=True,
            text=True,
        )
        if done.returncode and not mounted:
            pytest.skip(f"no disk of a given size can be mounted here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        mounted = True
        return folder

    yield sized
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_space(
    whole: Path, recipe: Recipe, disk: Callable[[int], Path]
) -> None:
    expected, stages = files(whole), []
    for size in (1, 24, 60):
        out = disk(size) / "run"
        with pytest.raises(InputError) as caught:
            study(recipe, out)
        assert Path(str(caught.value.value)).is_relative_to(out)
        assert "no space is left on that device" in str(caught.value) and "Free some space" in str(
            caught.value
        )
        assert not list(out.rglob(".partial-*"))
        kept = {name: data for name, data in files(out).items() if not name.startswith("cache/")}
        assert kept.items() <= expected.items()
        stages.append(
            sum(stage["status"] == "done" for stage in RunFolder(out).record["stages"].values())
        )
    assert len(kept) > 20 and stages == sorted(set(stages))  # each got further than the one before
    study(recipe, disk(400) / "run")
    assert files(out) == expected and record(out) == record(whole)
