"""`homolog circuits` of other tasks than induction: tables, resuming, and what is refused."""

import json
from pathlib import Path

import polars as pl
import pytest
from tests.pipeline.outcome import drawing, told
from tests.reference.tiny_models import tiny_opt
from typer.testing import CliRunner

from homolog.cli import app
from homolog.pipeline.recipes import parse_circuits
from homolog.record.recipe import Circuits
from homolog.record.run_folder import RunFolder
from homolog.record.tables import CIRCUITS, TASK_TABLES

MODELS = ("zoo:transformer-s0", "zoo:mamba-s0")
TASKS = "induction,associative-recall"
FEW = ("--prompts", "8", "--edges", "12", "--validated-edges", "3", "--subsets", "1", "--quiet")
SHORT = ("--length", "16", "--repeat", "4", "--option", "n_pairs=4", "--random", "3")


def circuits(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["circuits", *words])
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("circuits") / "run"
    said = circuits(TASKS, *MODELS, *SHORT, *FEW, "--out", str(folder)).splitlines()
    found, said = said[:2], said[2:]
    for model, line in zip(("transformer-s0", "mamba-s0"), found, strict=True):
        assert line.startswith(f"{model} has the answer on top in "), line
        assert "its strongest parts: " in line
    starts = [line.split(":")[0] for line in said]
    assert starts == [
        "induction in transformer-s0",
        "associative_recall in transformer-s0",
        "induction in mamba-s0",
        "associative_recall in mamba-s0",
        "Report",
    ]
    assert "3 random circuits" in said[0] and "CPR" in said[0]
    assert "no circuit, it puts the answer above the wrong one in" in said[3]
    return folder


def test_the_tables_say_what_was_found_of_each_model_and_task(out: Path) -> None:
    tables = {table.name: pl.read_parquet(out / table.file) for table in TASK_TABLES}
    for table in TASK_TABLES:
        assert dict(tables[table.name].schema) == dict(table.schema), table.name
    rows = tables["task_circuits"].to_dicts()
    assert [(row["model"], row["able"]) for row in rows] == [
        ("transformer-s0", True),
        ("transformer-s0", True),
        ("mamba-s0", True),
        ("mamba-s0", False),
    ]
    for row in rows[:3]:
        own = tables["task_nodes"].filter(model=row["model"], task=row["task"])
        assert own["in_circuit"].sum() == row["n_nodes"] <= row["n_nodes_of_model"] == len(own)
        assert row["n_prompts"] == 8 and row["length"] == (16 if row["task"] == "induction" else 9)
        assert row["faithfulness_lo"] <= row["faithfulness"] <= row["faithfulness_hi"]
        assert row["null_least"] <= row["null_mean"] <= row["null_most"]
        assert row["solved"] >= row["needed"] == 0.75 and row["reason"] == row["dropped"] == ""
        kinds = {node.split(".")[0] for node in own["node"]}
        assert kinds == ({"mixer_out"} if "mamba" in row["model"] else {"head_out", "mlp_out"})
    unable = rows[3]
    assert unable["solved"] < 0.75 and unable["n_nodes"] is None and unable["faithful"] is None
    assert "75% needed, chance 50.0%" in unable["reason"]
    pairs = tables["task_transfers"].select("model", "task", "on").rows()
    assert len(pairs) == 4 + 1 and pairs[-1] == ("mamba-s0", "induction", "induction")
    beginnings = RunFolder(out).record["beginnings"]
    assert [facts["begins"] for facts in beginnings.values()] == [False, False]
    assert RunFolder(out).verify() == [] and not (out / "cache").exists()


def test_induction_among_the_tasks_is_traced_beside_random_heads_and_states(out: Path) -> None:
    rows = CIRCUITS.read(out / CIRCUITS.file).to_dicts()
    assert [row["model"] for row in rows] == ["transformer-s0", "mamba-s0"]
    assert all(row["null_least"] <= row["null_mean"] <= row["null_most"] for row in rows)


def test_the_report_shows_circuits_beside_chance(out: Path) -> None:
    page = told(out / "report")
    assert 'id="circuits-of-tasks"' in page and "How few nodes do it?" in page
    assert "transformer-s0: faithfulness on each task, and of random circuits" in page
    assert "As many drawn at random" in page
    assert drawing(out / "report", "task-curves").startswith("<svg")


def test_the_same_command_continues_and_json_says_the_same(out: Path) -> None:
    before = {file.name: file.read_bytes() for file in out.glob("*.parquet")}
    (out / "task_edges.parquet").write_bytes(b"damaged")
    said = circuits(TASKS, *MODELS, *SHORT, *FEW, "--json", "--out", str(out))
    assert {file.name: file.read_bytes() for file in out.glob("*.parquet")} == before
    rows = pl.read_parquet(out / "task_circuits.parquet").fill_nan(None).to_dicts()
    assert json.loads(said)["task_circuits"] == rows
    other = circuits("associative_recall", *MODELS, *FEW, "--out", str(out), code=2)
    assert "another" in other


def test_own_prompts_alone_make_a_report_without_induction(tmp_path: Path) -> None:
    repeated = [[10, 11, 12, 13, 14], [20, 21, 22, 23, 24], [30, 31, 32, 33, 34]]
    lines = [
        {"clean": [*five, 40, *five[:4]], "corrupt": [*five[:4], 50, 40, *five[:4]], "answer": b}
        for five in repeated
        for b in five[4:]
    ]
    own = tmp_path / "mine.jsonl"
    own.write_text("\n".join(map(json.dumps, lines)))
    more = ("--metric", "probability", "--edges", "9999", "--even-unable", "--out")
    said = circuits(str(own), "zoo:mamba-s0", *FEW, *more, str(tmp_path / "own"))
    assert "8 of 8 nodes do 1.00" in said and "not faithful: it is the whole model" in said
    (row,) = pl.read_parquet(tmp_path / "own" / "task_circuits.parquet").to_dicts()
    assert row["task"] == "mine" and row["n_prompts"] == 3 and row["chance"] == 1 / 1024
    assert not (tmp_path / "own" / CIRCUITS.file).exists()
    page = told(tmp_path / "own" / "report")
    assert "do these tasks?" in page and "Every part" not in page
    own.write_text("\n".join(map(json.dumps, lines[::-1])))
    changed = circuits(str(own), "zoo:mamba-s0", *FEW, *more, str(tmp_path / "own"), code=2)
    assert f"it holds a run of other contents of the task {own}" in changed


def test_places_of_a_text_are_of_the_text_that_the_run_began_with(tmp_path: Path) -> None:
    text = ("natural_induction", "zoo:transformer-s0", *FEW, "--length", "32", "--random", "2")
    circuits(*text, "--out", str(tmp_path / "text"))
    read = RunFolder(tmp_path / "text").record["inputs"]
    assert set(read) >= {"the text zoo:demo of natural_induction"}


def test_a_model_without_an_adapter_is_refused_with_a_remedy(tmp_path: Path) -> None:
    tiny_opt().save_pretrained(tmp_path / "opt")
    said = circuits(TASKS, str(tmp_path / "opt"), "--out", str(tmp_path / "run"), code=2)
    assert "tracing circuits needs an adapter" in said and "'opt' has none" in said
    assert "Name models of these architectures" in said and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("inductoin", "zoo:mamba-s0"), "Did you mean 'induction'"),
        (("ioi", "zoo:mamba-s0"), "give your own pairs as JSONL"),
        (("ioi", "zoo:mamba-s0"), "the tokenizer models/mamba-s0 must have 5 or more names"),
        (("induction", "zoo:mamba-s0", "--option", "n_pairs"), "it must be NAME=VALUE"),
        (("induction", "zoo:mamba-s0", "--option", "coruption=swap"), "Did you mean 'corruption'"),
        (("associative_recall", "zoo:mamba-s0", "mamba-s0"), "each needs a name of its own"),
        (("ioi,induction,ioi", "zoo:mamba-s0"), "name each task once"),
        (("none.jsonl", "zoo:mamba-s0"), "it must be a JSONL file"),
        (("ioi", "zoo:mamba-s0", "--expect"), "released numbers are of induction"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    told = circuits(*words, "--out", str(tmp_path / "run"), code=2)
    assert said in " ".join(told.split())
    assert not (tmp_path / "run").exists()


def test_recipes_of_one_task_are_read_as_they_were() -> None:
    old = Circuits.parse({"task": "induction", "length": 16})
    assert old.tasks == ("induction",) and old.traced and old.discovered == ()
    several = parse_circuits({"name": "a", "models": ["b"], "circuits": {"tasks": ["ioi"]}})
    assert not several.circuits.traced and several.circuits.discovered == ("ioi",)
