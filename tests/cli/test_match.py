"""`homolog match`: matrices in files give what the same matrices give in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.sparse
from typer.testing import CliRunner

import homolog
from homolog import cli
from homolog.matching.planted import PlantedMatches, plant_matches
from homolog.matching.planting import Planting


@pytest.fixture(scope="module")
def planted() -> PlantedMatches:
    planting = Planting(frequency=(1e-2, 1e-1), noise=(0.0, 0.3), by_token=0.3, in_untrained=0.3)
    return plant_matches(20_000, 60, seed=0, planting=planting)


@pytest.fixture
def folder(planted: PlantedMatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, matrix in (("brain", planted.a), ("net", planted.b), ("ua", planted.untrained_a)):
        scipy.sparse.save_npz(f"{name}.npz", matrix)
    np.save("ub.npy", planted.untrained_b.toarray())
    np.save("documents.npy", planted.document)
    pl.DataFrame({"token": planted.token}).write_parquet("tokens.parquet")
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli.app, ["match", *arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout if code == 0 else done.stderr


def test_the_command_says_what_python_says(planted, folder):
    said = run(
        *("brain.npz", "net.npz", "--documents", "documents.npy", "--tokens", "tokens.parquet"),
        *("--control", "untrained=ua.npz", "--control", "twin@B=ub.npy"),
        *("--out", "out", "--seed", "3"),
    )
    expected = homolog.match(
        planted.a,
        planted.b,
        documents=planted.document,
        tokens=planted.token,
        controls={
            "untrained": planted.untrained_a,
            "twin": homolog.StandIn(planted.untrained_b, "net"),
        },
        names=("brain", "net"),
        seed=3,
    )
    assert said == f"{expected.words}\nTables: out\n"
    assert pl.read_parquet("out/matches.parquet").equals(expected.matches)
    assert "of the features of brain have a homolog in net." in said


def test_files_of_one_name_are_a_and_b(planted, folder):
    (folder / "other").mkdir()
    (folder / "other" / "net.npz").write_bytes((folder / "net.npz").read_bytes())
    said = run("net.npz", "other/net.npz", "--resamples", "10", "--fdr", "0.05")
    assert "of the features of a have a homolog in b." in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--control", "ua.npz"], "--control is 'ua.npz', but it must be NAME=FILE"),
        (["--control", "u@C=ua.npz"], "NAME@A=FILE or NAME@B=FILE"),
        (["--control", "u=ua.npz", "--control", "u=ub.npy"], "another control has that name"),
        (["--control", "u=nil.npz"], "feature matrix is 'nil.npz', but there is no such file"),
        (["--documents", "ub.npy"], "shape of documents"),
        (["--tokens", "tokens.txt"], "numbers per row is 'tokens.txt', but its name must end in"),
        (["--fdr", "2"], "fdr is 2.0"),
        (["--device", "tpu"], "device is 'tpu'"),
        (["--out", "brain.npz"], "output path is"),
    ],
)
def test_what_cannot_be_used_is_one_message(arguments, message, folder):
    said = run("brain.npz", "net.npz", *arguments, code=2)
    assert said.startswith("homolog: ") and said.count("\n") == 1 and message in said


def test_help_names_the_settings():
    said = CliRunner().invoke(cli.app, ["match", "--help"], env={"COLUMNS": "200"}).stdout
    for option in ("--documents", "--control", "--tokens", "--out", "--margin", "--seed"):
        assert option in said
    assert "completion" not in said
