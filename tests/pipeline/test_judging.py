"""A run judged anew is the run that other gates, margins and rates would have made from the start.

What was trained, encoded and matched is not made again, and no other setting may change.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.pipeline.outcome import told

from homolog import dictionaries as library
from homolog.errors import InputError
from homolog.pipeline import comparing, dictionaries, features
from homolog.pipeline.recipes import parse_recipe
from homolog.pipeline.run_study import finished_report, run_study
from homolog.progress import SilentProgress
from homolog.record.recipe import Recipe
from homolog.record.run_folder import RunFolder
from homolog.record.run_record import JUDGING, judges, judging_settings

VALUES: dict[str, Any] = {
    "name": "small",
    "models": [
        {"ref": "zoo:transformer-s0", "untrained": "zoo:transformer-random", "layers": [1, 3]},
        {"ref": "zoo:mamba-s0", "untrained": "zoo:mamba-random", "layers": [2, 5]},
    ],
    "corpus": {
        "source": "zoo:demo",
        "context": 64,
        "train_tokens": 8192,
        "match_tokens": 8192,
        "neuron_tokens": 2048,
        "quality_tokens": 1024,
    },
    "sae": {"d_sae": 64, "l1": 1.0, "epochs": 2, "batch": 512, "seeds": [0, 1]},
    "gates": {  # of dictionaries as hastily trained as these
        "explained_variance": 0.01,
        "dense_share": 1.0,
        "l0_share_most": 1.0,
        "loss_recovered": -9.0,
    },
    "matching": {"resamples": 20, "space_tokens": 2048},
    "interpretation": {
        "context_tokens": 1024,
        "causal_pairs": 0,
        "listed": 4,
        "transplant": False,
    },
}
OTHERWISE: dict[str, dict[str, Any]] = {
    "gates": {"explained_variance": 0.14},  # which untrained twins miss
    "matching": {
        "margin": 0.09,
        "control_credit": 0.3,
        "control_gap": 0.01,
        "rival_ratio": 0.9,
        "fdr": 0.2,
        "resamples": 30,
    },
}


def recipe_of(changes: dict[str, dict[str, Any]] | None = None, **words: Any) -> Recipe:
    """The small recipe with some of its tables changed."""
    changed = {name: VALUES[name] | table for name, table in (changes or {}).items()}
    return parse_recipe(VALUES | changed | words, "recipe")


def run(recipe: Recipe, out: Path) -> Path:
    run_study(recipe, out, SilentProgress())
    return out


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(recipe_of(), tmp_path_factory.mktemp("runs") / "done")


@pytest.fixture(scope="module")
def otherwise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that is judged otherwise from the start."""
    return run(recipe_of(OTHERWISE), tmp_path_factory.mktemp("runs") / "otherwise")


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    shutil.copytree(done, tmp_path / "run")
    return tmp_path / "run"


def tables(out: Path) -> dict[str, bytes]:
    files = sorted(path for path in out.rglob("*.parquet") if path.is_relative_to(out))
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def touched(out: Path) -> dict[str, int]:
    """When what is trained, encoded or matched was written."""
    folders = (out / name for name in ("saes", "features", "null"))
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert {path.relative_to(out).parts[0] for path in files} == {"saes", "features", "null"}
    return {path.as_posix(): path.stat().st_mtime_ns for path in files}


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, encoding and matching fail."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(dictionaries, "train_layers", fail)
    monkeypatch.setattr(features, "encode_text", fail)
    monkeypatch.setattr(comparing.Comparer, "match", fail)


@pytest.mark.usefixtures("no_work")
def test_a_run_judged_anew_is_the_one_judged_so_from_the_start(copy: Path, otherwise: Path) -> None:
    before, began = touched(copy), RunFolder(copy).record
    run(recipe_of(OTHERWISE), copy)
    assert tables(copy) == tables(otherwise)
    assert touched(copy) == before
    record = RunFolder(copy).record
    (entry,) = record["judged"]
    settings = judging_settings(recipe_of().values())
    assert entry["was"] == {
        f"{name}.{key}": settings[f"{name}.{key}"]
        for name, table in OTHERWISE.items()
        for key in table
    }
    assert entry["recipe_hash"] == began["recipe_hash"] != record["recipe_hash"]
    assert record["verdicts"] == RunFolder(otherwise).record["verdicts"] != began["verdicts"]
    assert record["warnings"] == RunFolder(otherwise).record["warnings"] != began["warnings"]
    assert any(verdict["given"] for verdict in record["verdicts"])
    assert RunFolder(copy).verify() == [] and not (copy / "cache").exists()
    assert finished_report(recipe_of(OTHERWISE), copy) is not None
    assert finished_report(recipe_of(), copy) is None


@pytest.mark.usefixtures("no_work")
def test_judged_back_and_forth_it_is_as_it_began(copy: Path, done: Path) -> None:
    run(recipe_of({"matching": {"fdr": 0.2, "margin": 0.09}}), copy)
    assert tables(copy) != tables(done)
    run(recipe_of(), copy)
    assert tables(copy) == tables(done) and len(RunFolder(copy).record["judged"]) == 2


@pytest.mark.usefixtures("no_work")
def test_what_does_not_depend_on_the_judgement_is_kept(copy: Path) -> None:
    stages = RunFolder(copy).record["stages"]
    assert pl.read_parquet(copy / "saes.parquet")["passed"].all()
    run(recipe_of({"gates": {"explained_variance": 0.2}}), copy)
    now = RunFolder(copy).record["stages"]
    saes = pl.read_parquet(copy / "saes.parquet")
    assert saes["passed"].to_list() == (saes["explained_variance"] >= 0.2).to_list()
    assert saes["passed"].n_unique() == 2
    for kept in ("left_context", "features", "scatter", "vocabulary"):
        assert now[kept] == stages[kept]
    for again in ("tables", "exclusive", "report"):  # gates are in the table `saes`
        assert now[again] != stages[again]


@pytest.mark.usefixtures("no_work")
def test_another_name_writes_the_report_anew_and_nothing_else(copy: Path, done: Path) -> None:
    run(recipe_of(name="another"), copy)
    assert tables(copy) == tables(done)
    assert "another" in told(copy / "report")
    assert RunFolder(copy).record["name"] == "another"


class Stop(BaseException):
    """As a signal ends a run."""


def stop(*_: Any, **__: Any) -> None:
    raise Stop


@pytest.mark.usefixtures("no_work")
def test_stopped_while_it_is_judged_it_goes_on(
    copy: Path, otherwise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the third comparison, in the tables, and in the report."""
    original, recipe = RunFolder.stage, recipe_of(OTHERWISE)
    for stage, number in (("match", 3), ("tables", 1), ("report", 1)):
        met = 0

        def stopped(self: RunFolder, name: str, outputs: Any, at: Any = (stage, number)) -> Any:
            nonlocal met
            met += name.startswith(at[0])
            if met == at[1]:
                with original(self, name, []):
                    raise Stop
            return original(self, name, outputs)

        with monkeypatch.context() as patched, pytest.raises(Stop):
            patched.setattr(RunFolder, "stage", stopped)
            run(recipe, copy)
        assert finished_report(recipe, copy) is None
    run(recipe, copy)
    assert tables(copy) == tables(otherwise)


def test_a_running_run_is_judged_anew(
    otherwise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped when a model's dictionaries are trained, then before the tables, each time judged by
    other settings afterwards: what is done is not done again.
    """
    out, train = tmp_path / "running", library.train
    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(dictionaries, "beginning_of", stop)
        run(recipe_of(), out)

    def others(*args: Any, model: str, **settings: Any) -> Any:
        assert model != "transformer-s0"
        return train(*args, model=model, **settings)

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(library, "train", others)
        patched.setattr(comparing, "_write_tables", stop)
        run(recipe_of({"matching": {"fdr": 0.1}}), out)
    before = touched(out)
    with monkeypatch.context() as patched:
        patched.setattr(comparing.Comparer, "match", stop)
        run(recipe_of(OTHERWISE), out)
    assert tables(out) == tables(otherwise) and touched(out) == before


def test_other_settings_are_refused_with_those_that_may_change(copy: Path) -> None:
    record = RunFolder(copy).record
    other = recipe_of({"sae": {"l1": 2.0}, "matching": {"margin": 0.09, "null_exchanges": 1}})
    with pytest.raises(InputError) as refused:
        run(other, copy)
    words = str(refused.value)
    for key in ("sae.l1 (1.0 there, 2.0 now)", "matching.null_exchanges (2 there, 1 now)"):
        assert key in words
    assert "Only name, [gates] and, of [matching], margin," in words
    assert RunFolder(copy).record == record


def test_every_setting_that_may_change_is_one_of_the_recipe() -> None:
    settings = judging_settings(recipe_of().values())
    assert settings.keys() == {
        *(f"gates.{key}" for key in recipe_of().gates.values()),
        *(f"matching.{key}" for key in JUDGING),
    }
    assert all(map(judges, settings)) and judges("name")
    assert not any(map(judges, ("margin", "matching.align", "sae.l1", "run.seed", "gates")))
