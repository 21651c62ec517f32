"""Damaged recipes and run folders: one message, or what is right; never a traceback or a result
from damage.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from tests import damage
from tests.pipeline.outcome import files
from tests.pipeline.test_inputs import model_folder, small, write_lines

import homolog
from homolog.errors import InputError
from homolog.pipeline.models import models_of
from homolog.pipeline.recipes import load_recipe
from homolog.pipeline.run_study import finished_report, run_study
from homolog.progress import SilentProgress
from homolog.record.atomic import as_input_error
from homolog.record.recipe import Recipe
from homolog.record.run_folder import RunFolder
from homolog.report import write_report

WORDS = (
    "-1",
    "0",
    "1e400",
    "nan",
    "true",
    '""',
    '"x"',
    "[]",
    "{}",
    "1.5",
    "99999999999999999999",
    "[[1]]",
    '["a"]',
)


@pytest.mark.damage
def test_damaged_recipes_are_refused_or_mean_what_they_say(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    whole = (
        Path(homolog.__file__).parent / "record" / "recipe" / "builtin" / "demo.toml"
    ).read_text()
    path, rng, read = tmp_path / "recipe.toml", random.Random(0), 0
    for _ in range(damage.number_of(pytestconfig)):
        path.write_text(whole)
        done = changed_value(path, rng) if rng.random() < 0.6 else damage.damage([path], rng)
        try:
            recipe = load_recipe(path)
            assert isinstance(recipe, Recipe) and models_of(recipe).compared, done
            read += 1
        except InputError as error:
            assert "recipe.toml" in str(error) or error.field in ("model", "models"), done
        except Exception as error:
            raise AssertionError(done) from error
        if path.is_dir():
            path.rmdir()
    assert 0 < read < damage.number_of(pytestconfig)


def changed_value(path: Path, rng: random.Random) -> str:
    """Another value for one key."""
    lines = path.read_text().splitlines()
    number = rng.choice([i for i, line in enumerate(lines) if " = " in line])
    lines[number] = f"{lines[number].split(' = ')[0]} = {rng.choice(WORDS)}"
    path.write_text("\n".join(lines))
    return lines[number]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, two models and `run`, which is finished."""
    folder = tmp_path_factory.mktemp("whole")
    write_lines(folder / "text.jsonl", 0)
    model_folder("transformer-s0", folder / "a")
    model_folder("transformer-s1", folder / "b")
    run_study(small(folder), folder / "run", SilentProgress())
    return folder


def own_files(run: Path) -> list[Path]:
    return [path for path in damage.files_in(run) if path.name != ".lock"]


@pytest.mark.damage
def test_what_reads_a_damaged_run_reads_what_was_written_or_refuses(
    whole: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    rng, run, tables = random.Random(1), tmp_path / "run", homolog.Study.load(whole / "run")
    good = {
        name: getattr(tables, name) for name in ("matches", "layers", "summary", "saes", "shared")
    }
    refused = 0
    for number in range(damage.number_of(pytestconfig)):
        damage.put_back(run, whole / "run")
        kind = rng.choice(("*.parquet", "*.parquet", "run.json", "**/*"))
        done = damage.damage([path for path in own_files(run) if path in set(run.glob(kind))], rng)
        try:
            study = homolog.Study.load(run)
            for name, frame in good.items():
                assert getattr(study, name).equals(frame), done
            assert finished_report(small(whole), run) is None or RunFolder(run).verify() == []
            if number % 10 == 0:
                write_report(run)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error), done
        except Exception as error:
            raise AssertionError(done) from error
    assert refused > damage.number_of(pytestconfig) / 4


@pytest.mark.damage
def test_the_same_command_mends_a_damaged_run(whole: Path, pytestconfig: pytest.Config) -> None:
    rng, run, kept = random.Random(2), whole / "run", whole / "kept"
    shutil.copytree(run, kept)
    for _ in range(damage.number_of(pytestconfig) // 10):
        done = damage.damage(own_files(run), rng)
        try:
            run_study(small(whole), run, SilentProgress())
        except (InputError, OSError) as found:
            error = (
                found
                if isinstance(found, InputError)
                else as_input_error(found, Path(found.filename))
            )
            assert "place of the file is taken" in str(error) or "and no run" in str(error), done
            damage.put_back(run, kept)
        except Exception as error:
            raise AssertionError(done) from error
        assert files(run) == files(kept), done


def test_a_damaged_null_is_made_again(whole: Path, tmp_path: Path) -> None:
    """Tables are whole without it, but no other rate could be judged by."""
    run = tmp_path / "run"
    damage.put_back(run, whole / "run")
    (null,) = (run / "null").iterdir()
    written = null.read_bytes()
    null.write_bytes(written[:-1])
    assert finished_report(small(whole), run) is None
    run_study(small(whole), run, SilentProgress())
    assert null.read_bytes() == written
    assert RunFolder(run).verify() == []
