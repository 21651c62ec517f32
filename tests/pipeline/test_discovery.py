"""`homolog circuits discover`: tables, resuming, tasks of several kinds, and what it refuses."""

import json
from pathlib import Path

import polars as pl
import pytest
from tests.reference.tiny_models import tiny_qwen3
from typer.testing import CliRunner

from homolog.circuits.tables import TASK_TABLES
from homolog.cli import app
from homolog.record.run_folder import RunFolder

MODELS = ("zoo:transformer-s0", "zoo:mamba-s0")
FEW = ("--prompts", "8", "--edges", "12", "--validated", "3", "--subsets", "1", "--quiet")
SHORT = ("--option", "length=16", "--option", "repeat=4")


def discover(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["circuits", "discover", *words])
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("discover") / "run"
    said = discover("induction", *MODELS, *SHORT, *FEW, "--out", str(folder)).splitlines()
    assert [line.split()[0] for line in said] == ["model", "transformer-s0", "mamba-s0", "Tables:"]
    return folder


def test_the_tables_say_what_was_found_of_each_model(out: Path) -> None:
    tables = {table.name: pl.read_parquet(out / table.file) for table in TASK_TABLES}
    for table in TASK_TABLES:
        frame = tables[table.name]
        assert dict(frame.schema) == dict(table.schema), table.name
        assert frame["model"].unique(maintain_order=True).to_list() == [
            "transformer-s0",
            "mamba-s0",
        ]
    for row in tables["task_circuits"].iter_rows(named=True):
        own = tables["task_nodes"].filter(model=row["model"])
        assert len(own) == row["n_nodes"] <= row["n_nodes_of_model"]
        assert (row["n_prompts"], row["length"], row["task"]) == (8, 16, "induction")
        assert row["faithfulness_lo"] <= row["faithfulness"] <= row["faithfulness_hi"]
        kinds = {node.split(".")[0] for node in own["node"]}
        assert kinds <= ({"mixer_out"} if "mamba" in row["model"] else {"head_out", "mlp_out"})
    beginnings = RunFolder(out).record["beginnings"]
    assert [facts["begins"] for facts in beginnings.values()] == [False, False]
    assert all(0 < facts["without"] < facts["with_it"] + 0.5 for facts in beginnings.values())
    assert RunFolder(out).verify() == [] and not (out / "cache").exists()


def test_the_same_command_continues_and_json_says_the_same(out: Path) -> None:
    before = {file.name: file.read_bytes() for file in out.glob("*.parquet")}
    (out / "task_edges.parquet").write_bytes(b"damaged")
    said = discover("induction", *MODELS, *SHORT, *FEW, "--json", "--out", str(out))
    rows = json.loads(said)
    assert {file.name: file.read_bytes() for file in out.glob("*.parquet")} == before
    assert rows == pl.read_parquet(out / "task_circuits.parquet").fill_nan(None).to_dicts()
    other = discover("induction", *MODELS, *FEW, "--out", str(out), code=2)
    assert "another" in other


def test_own_prompts_and_places_of_a_text(tmp_path: Path) -> None:
    lines = [
        {"clean": [a, b, 40, a], "corrupt": [a, 50, 40, a], "answer": b}
        for a, b in ((10, 11), (12, 13), (14, 15))
    ]
    own = tmp_path / "mine.jsonl"
    own.write_text("\n".join(map(json.dumps, lines)))
    more = ("--prompts", "3", "--metric", "probability", "--edges", "9999", "--out")
    said = discover(str(own), "zoo:mamba-s0", *FEW, *more, str(tmp_path / "own"))
    assert "whole of mamba-s0, and its scores say nothing" in said
    text = ("natural_induction", "zoo:mamba-s0", *FEW, "--option", "length=32")
    discover(*text, "--out", str(tmp_path / "text"))
    assert set(RunFolder(tmp_path / "text").record["inputs"]) >= {"the text zoo:demo"}
    own.write_text("\n".join(map(json.dumps, lines[::-1])))
    changed = discover(str(own), "zoo:mamba-s0", *FEW, *more, str(tmp_path / "own"), code=2)
    assert f"it holds a run of other contents of the task {own}" in changed


def test_a_model_without_an_adapter_is_refused_with_a_remedy(tmp_path: Path) -> None:
    tiny_qwen3().save_pretrained(tmp_path / "qwen")
    said = discover("induction", str(tmp_path / "qwen"), "--out", str(tmp_path / "run"), code=2)
    assert "attributing edges needs an adapter" in said and "'qwen3' has none" in said
    assert "Name models of these architectures" in said and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("inductoin", "zoo:mamba-s0"), "Did you mean 'induction'"),
        (("ioi", "zoo:mamba-s0"), "give your own pairs as JSONL"),
        (("induction", "zoo:mamba-s0", "--option", "repeat"), "it must be NAME=VALUE"),
        (("induction", "zoo:mamba-s0", "--option", "lenght=9"), "Did you mean 'length'"),
        (("induction", "zoo:mamba-s0", "mamba-s0"), "each needs a name of its own"),
        (("none.jsonl", "zoo:mamba-s0"), "it must be a JSONL file"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    assert said in discover(*words, "--out", str(tmp_path / "run"), code=2)
    assert not (tmp_path / "run").exists()
