"""`homolog sae` as a user meets it: exit codes, the table, an interrupt, JSON, other libraries'
layouts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tests.cli.help import help_without
from tests.cli.test_commands import HOMOLOG
from tests.processes import started
from typer.testing import CliRunner

from homolog import cli
from homolog.cli.sae import quality_table
from homolog.dictionaries import load

TINY = [
    "sae",
    "train",
    "zoo:transformer-s0",
    "--layers",
    "1",
    "--d-sae",
    "64",
    "--l1",
    "1",
    "--tokens",
    "20000",
    "--context",
    "64",
    "--heldout",
    "5120",
    "--batch",
    "256",
    "--stream",
    "pool",
    "--threads",
    "1",
]


def homolog(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "140", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*HOMOLOG, *map(str, arguments)], capture_output=True, text=True, env=environment
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped by Ctrl-C as soon as it trained, and continued."""
    target = tmp_path_factory.mktemp("cli") / "run"
    command = [*HOMOLOG, *TINY, "--out", str(target)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with started(command, env=environment, **pipes) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "train 2 dictionaries ..." in line:
                process.send_signal(signal.SIGINT)
                break
        table, complaint = process.communicate()
    assert process.returncode == 130, complaint
    assert (
        "give the same command again" in complaint and "Traceback" not in complaint and table == ""
    )
    done = homolog(*TINY, "--out", target)
    assert done.returncode == 0, done.stderr
    head, *rows, last = done.stdout.splitlines()
    assert head.split() == [
        "layer",
        "label",
        "explained",
        "L0",
        "dead",
        "loss",
        "recovered",
        "seeds",
        "agree",
        "verdict",
    ]
    assert [row.split()[:2] for row in rows] == [["1", "sae"], ["1", "seed1"]]
    assert last == f"Dictionaries: {target / 'saes'}"
    return target


def test_the_finished_run_prints_its_table_again(out: Path) -> None:
    done = homolog(*TINY, "--out", out)
    assert done.returncode == 0 and done.stderr == ""
    assert re.search(
        r"^ +1  seed1 +0\.\d{3} +\d+\.\d +\d+% +-?\d\.\d{3} +0\.\d{3}  \S", done.stdout, re.M
    )
    assert homolog("verify", out).returncode == 0


def test_eval_prints_quality_and_json(out: Path) -> None:
    folder = out / "saes/transformer-s0/1"
    done = homolog("sae", "eval", folder)
    assert done.returncode == 0, done.stderr
    for line in (
        "relu, 64 features, zoo:transformer-s0 layer 1",
        "held out from its training",
        "loss recovered",
        "gates: ",
        "As its file says, within tolerance.",
    ):
        assert line in done.stdout
    found = CliRunner().invoke(cli.app, ["sae", "eval", str(folder), "--json"])
    assert found.exit_code == 0
    assert json.loads(found.stdout)["agrees"] is True


def test_eval_refuses_another_layer_or_tokenizer_and_says_another_model(
    out: Path, tmp_path: Path
) -> None:
    folder = out / "saes/transformer-s0/1"
    layer = CliRunner().invoke(cli.app, ["sae", "eval", str(folder), "--layer", "0", "--quiet"])
    assert layer.exit_code == 2 and layer.stdout == ""
    assert (
        f"--layer is 0, but by its file, the dictionary {folder} is of layer 1. Leave --layer out"
        in layer.stderr
    )

    other = CliRunner().invoke(
        cli.app, ["sae", "eval", str(folder), "--model", "zoo:transformer-s1", "--quiet"]
    )
    assert other.exit_code == 1 and "Not what its file says" in other.stdout
    assert (
        "zoo:transformer-s1 layer 1   (its file: zoo:transformer-s0)"
        in other.stdout.splitlines()[0]
    )
    assert (
        "Its file says that it is of zoo:transformer-s0, and it was measured in zoo:transformer-s1."
        in other.stdout
    )

    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "cfg.json").read_text())
    own = config["metadata"]["homolog"]["tokenizer"]
    config["metadata"]["homolog"]["tokenizer"] = "0f3a"
    (copy / "cfg.json").write_text(json.dumps(config))
    found = CliRunner().invoke(cli.app, ["sae", "eval", str(copy), "--quiet"])
    assert found.exit_code == 2 and found.stdout == ""
    assert (
        "--model is 'zoo:transformer-s0'" in found.stderr
        and own in found.stderr
        and "(0f3a)" in found.stderr
    )


def test_convert_there_and_back(out: Path, tmp_path: Path) -> None:
    folder = out / "saes/transformer-s0/1"
    found = CliRunner().invoke(
        cli.app, ["sae", "convert", str(folder), str(tmp_path / "a"), "--to", "dictionary_learning"]
    )
    assert found.exit_code == 0 and str(tmp_path / "a") in found.stdout
    found = CliRunner().invoke(
        cli.app, ["sae", "convert", str(tmp_path / "a"), str(tmp_path / "b"), "--to", "homolog"]
    )
    assert found.exit_code == 0
    assert load(tmp_path / "b").d_sae == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "zoo:nope"], "the zoo has no model"),
        (
            ["train", "zoo:mamba-s0", "--kind", "topk", "--l1", "3"],
            "--l1 is 3.0, but it belongs to relu or gated",
        ),
        (["train", "zoo:mamba-s0", "--layers", "a"], "numbers and ranges, or all"),
        (["train", "zoo:mamba-s0", "--layers", "8"], "has layers 0 to 7"),
        (["train", "zoo:mamba-s0", "--layers", "0-999999999999"], "no model has 100000 layers"),
        (["train", "zoo:mamba-s0", "--text", "hf:"], "the dataset must be within reach"),
        (["train", "zoo:mamba-s0", "--kind", "standard"], "must be one of relu, topk"),
        (["train", "zoo:mamba-s0", "--lr", "0"], "--lr is 0.0"),
        (
            ["train", "zoo:mamba-s0", "--kind", "topk", "--d-sae", "8"],
            "k is 32, but there are 8 features",
        ),
        (
            ["train", "zoo:mamba-s0", "--kind", "batchtopk", "--expansion", "0.1"],
            "k is 32, but there are 13 features",
        ),
        (["eval", "/nowhere"], "no such folder"),
        (["convert", "/nowhere", "x", "--to", "npz"], "must be one of homolog"),
    ],
)
def test_unusable_input_is_one_message_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(cli.app, ["sae", *arguments])
    assert found.exit_code == 2
    assert message in " ".join(found.stderr.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_a_training_that_diverges_is_exit_code_1_with_where(tmp_path: Path) -> None:
    arguments = [*TINY, "--out", str(tmp_path / "run"), "--lr", "1e30", "--quiet"]
    found = CliRunner().invoke(cli.app, arguments)
    assert found.exit_code == 1
    assert re.search(r"training diverged: .*layer 1, step \d+ of 78.*Lower lr", found.stderr)


def test_help_of_sae_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "numba", "polars", "altair", "wandb"}
    said = help_without(heavy, "sae", "train")
    for option in (
        "--layers",
        "--kind",
        "--l1",
        "--k",
        "--l0",
        "--stream",
        "--wandb",
        "--tensorboard",
        "--device",
    ):
        assert option in said


def test_the_table_shows_what_is_undefined_and_why_a_dictionary_fails() -> None:
    row = {
        "layer": 10,
        "label": "sae",
        "explained_variance": 0.5,
        "l0": 12.34,
        "dead_share": 0.071,
        "loss_recovered": None,
        "seed_agreement": None,
        "reason": "L0 0.10 is below 1",
    }
    head, line = quality_table([row])
    assert line.split() == [
        "10",
        "sae",
        "0.500",
        "12.3",
        "7%",
        "-",
        "-",
        "L0",
        "0.10",
        "is",
        "below",
        "1",
    ]
    assert head.index("verdict") == line.index("L0 0.10")
