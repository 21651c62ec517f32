"""The circuits study end to end: tables, resuming, the command line, models that cannot."""

import json
import math

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from homolog.analyses.induction import measure
from homolog.cli import app
from homolog.errors import InputError
from homolog.pipeline import Study
from homolog.pipeline.circuits import run_circuits
from homolog.pipeline.recipes import load_recipe, parse_circuits, parse_recipe
from homolog.progress import SilentProgress
from homolog.record.run_folder import RunFolder
from homolog.record.tables import (
    CIRCUITS,
    DISCOVERIES,
    EDGES,
    EFFECTS,
    HIDDEN_ATTENTION,
    OFFSETS,
    ROLES,
)

STUDY_TABLES = (CIRCUITS, EFFECTS, ROLES, OFFSETS, DISCOVERIES, EDGES, HIDDEN_ATTENTION)
SMALL = {
    "n_prompts": 12,
    "length": 16,
    "repeat": 4,
    "batch": 8,
    "discovery_prompts": 4,
    "validated_edges": 3,
}


def recipe(*models, **changes):
    return parse_circuits({"name": "small", "models": models, "circuits": SMALL | changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("circuits") / "run"
    models = ("zoo:transformer-s0", "zoo:mamba-s0", "zoo:transformer-random")
    index = run_circuits(recipe(*models), path, SilentProgress())
    assert index == path / "report" / "index.html" and index.is_file()
    return path


def test_the_tables_say_what_each_model_does(run):
    study = Study.load(run)
    rows = {row["model"]: row for row in study.circuits.iter_rows(named=True)}
    assert rows["transformer-s0"]["key"].startswith("z.") and rows["mamba-s0"]["key"].startswith(
        "state."
    )
    for name in ("transformer-s0", "mamba-s0"):
        assert rows[name]["able"] and rows[name]["reason"] == ""
        assert rows[name]["verdict"] == "no shift" and rows[name]["offset"] == 0
        assert (
            rows[name]["faithfulness_lo"]
            <= rows[name]["faithfulness"]
            <= rows[name]["faithfulness_hi"]
        )
    unable = rows["transformer-random"]
    assert not unable["able"] and "accuracy" in unable["reason"] and unable["key"] is None
    for table in (study.effects, study.roles, study.offsets, study.discoveries, study.edges):
        assert set(table.get_column("model")) == {"transformer-s0", "mamba-s0"}
    read = study.hidden_attention.filter(position="B").sort("model")
    keys = [rows[name]["key"].replace("state", "y") for name in ("mamba-s0", "transformer-s0")]
    assert read["part"].to_list() == keys
    assert (study.hidden_attention.get_column("share").is_between(0, 1)).all()
    heads = study.effects.filter(
        pl.col("experiment") == "head to logits", pl.col("metric") == "probability"
    )
    assert heads.filter(pl.col("corruption") == "unrelated").height == 16  # 4 blocks of 4 heads
    layers = study.effects.filter(
        pl.col("experiment") == "state to logits", pl.col("metric") == "kl"
    )
    assert layers.height == 8 and (layers.get_column("clean") == 0).all()
    assert (study.effects.get_column("change_lo") <= study.effects.get_column("change_hi")).all()


def test_each_table_has_the_columns_and_dtypes_that_are_said_once(run):
    for table in STUDY_TABLES:
        columns = {name: column.type for name, column in table.columns.items()}
        assert pl.read_parquet_schema(run / table.file) == columns


def test_what_a_beginning_is_worth_to_each_model_is_recorded(run):
    beginnings = RunFolder(run).record["beginnings"]
    assert set(beginnings) == {"transformer-s0", "mamba-s0", "transformer-random"}
    chance = math.log(1024)  # of the zoo's vocabulary
    for name, facts in beginnings.items():
        assert facts["token"] == "<|endoftext|>" and not facts["begins"]
        assert (facts["without"] < chance / 2) == (facts["with_it"] < chance / 2)
        assert (facts["without"] < chance / 2) == ("random" not in name)


def test_what_was_found_is_said_of_each_model(run):
    words = [entry["words"] for entry in RunFolder(run).record["induction"]]
    assert len(words) == 3 and "has no circuit of induction" in words[2]
    for line, name in zip(words, ("transformer-s0", "mamba-s0"), strict=False):
        assert line.startswith(f"{name} has the answer on top in ") and "copier" in line


def test_parts_that_discovery_finds_again_are_counted(run):
    study = Study.load(run)
    assert study.discoveries["n_named"].sum() > 0
    assert (study.discoveries["n_found"] <= study.discoveries["n_named"]).all()
    assert (study.discoveries["n_prompts"] == 4).all()
    strongest = study.discoveries["pearson_top"]
    assert (strongest.is_nan() | strongest.is_between(-1, 1)).all()


def test_discovery_may_be_left_out(tmp_path):
    few = recipe("zoo:transformer-s0", discovery_prompts=0)
    run_circuits(few, tmp_path / "run", SilentProgress())
    assert not (tmp_path / "run" / EDGES.file).exists()
    assert "Found again?" not in (tmp_path / "run" / "report" / "index.html").read_text()
    with pytest.raises(InputError, match="discovery_prompts must be 2 or more, or 0"):
        recipe("zoo:transformer-s0", discovery_prompts=1)


def test_real_patches_follow_the_scores(run):
    edges = Study.load(run).edges
    patched = edges.filter(pl.col("effect").is_not_null())
    # three of the strongest and three at random, for two corruptions and two models
    assert patched.height == 24
    top = patched.filter(pl.col("chosen_as") == "top")
    assert (top.get_column("score").sign() == top.get_column("effect").sign()).all()


def test_a_second_start_does_nothing_and_a_damaged_table_is_rebuilt(run):
    before = {table: (run / table.file).read_bytes() for table in STUDY_TABLES}
    models = ("zoo:transformer-s0", "zoo:mamba-s0", "zoo:transformer-random")
    run_circuits(recipe(*models), run, SilentProgress())
    (run / "effects.parquet").write_bytes(b"damaged")
    run_circuits(recipe(*models), run, SilentProgress())
    assert {table: (run / table.file).read_bytes() for table in STUDY_TABLES} == before
    assert RunFolder(run).verify() == []


def test_models_that_cannot_do_the_task_end_with_their_accuracy(tmp_path):
    with pytest.raises(InputError, match=r"transformer-random.*accuracy.*Repeat more"):
        run_circuits(recipe("zoo:transformer-random"), tmp_path / "run", SilentProgress())


def test_a_model_named_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="each needs a name of its own"):
        run_circuits(recipe("zoo:mamba-s0", "mamba-s0"), tmp_path / "run", SilentProgress())
    assert not (tmp_path / "run").exists()


def test_the_command_line_says_what_is_wrong(tmp_path):
    runner = CliRunner()
    result = runner.invoke(
        app, ["circuits", "induction", "zoo:mamba-s9", "--out", str(tmp_path / "a"), "--quiet"]
    )
    assert result.exit_code == 2 and "mamba-s9" in result.output and "mamba-s0" in result.output
    result = runner.invoke(
        app,
        [
            "circuits",
            "induction",
            "zoo:mamba-s0",
            "--length",
            "16",
            "--repeat",
            "9",
            "--quiet",
            "--out",
            str(tmp_path / "b"),
        ],
    )
    assert result.exit_code == 2 and "length" in result.output


def test_threads_and_precision_reach_the_models(tmp_path, monkeypatch):
    """Of a study's circuits: `threads` limits them, and the tables stay as they are."""
    seen = []

    def trace_induction(model, prompts):
        seen.append((torch.get_num_threads(), next(model.hf.parameters()).dtype))
        return real(model, prompts)

    real = measure.trace_induction
    monkeypatch.setattr(measure, "trace_induction", trace_induction)
    small = recipe("zoo:mamba-s0")
    before = torch.get_num_threads()
    for threads in (1, 2):
        run_circuits(small, tmp_path / str(threads), SilentProgress(), threads=threads)
    assert [n for n, _ in seen] == [1, 2] and torch.get_num_threads() == before
    for table in STUDY_TABLES:
        one, two = (tmp_path / n / table.file for n in ("1", "2"))
        assert one.read_bytes() == two.read_bytes()
    words = ["circuits", "induction", "zoo:mamba-s0", "--dtype", "bfloat16", "--prompts", "4"]
    words += ["--length", "16", "--repeat", "4", "--quiet", "--out", str(tmp_path / "half")]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert seen[-1][1] == torch.bfloat16
    assert RunFolder(tmp_path / "half").recipe["run"]["dtype"] == "bfloat16"


def test_recipes_with_circuits_are_checked():
    demo = load_recipe("demo")
    assert demo.circuits is not None and demo.circuits.n_edges == 20
    values = demo.values()
    values["circuits"]["promts"] = 3
    with pytest.raises(InputError, match=r"circuits.promts.*Did you mean 'n_prompts'"):
        parse_recipe(values, "mine.toml")
    assert json.loads(json.dumps(demo.values()))["circuits"]["length"] == 64
