"""The result: which parts play which role, what they explain, and where a model has none."""

from __future__ import annotations

import polars as pl
import pytest
from tests.analyses.circuit_sections import circuit_page, circuits, figures, study_page, texts
from tests.analyses.planted_circuits import MAMBA, TRANSFORMER, write_circuits
from tests.report.pages import EVIL

from homolog.analyses.induction.summary import (
    ability_table,
    aligned_roles,
    roles_table,
    summary_values,
)

IN_SHORT = "How do they repeat what they have seen?"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_circuits(tmp_path_factory.mktemp("circuits") / "run")


def result(path):
    """The words of the section."""
    return texts(circuit_page(path))["Circuits"]


def test_roles_are_aligned_and_show_every_metric(run):
    roles = aligned_roles(circuits(run))
    assert list(roles) == ["previous-token carrier", "matcher", "copier"]
    copiers = {model: [p.component for p in parts] for model, parts in roles["copier"].items()}
    assert copiers == {TRANSFORMER: ["z.2.1", "z.3.0"], MAMBA: ["state.5"]}
    copier = roles["copier"][TRANSFORMER][0]
    assert (copier.name, copier.share) == ("head 2.1", "60%")
    assert copier.change == "\u22126.00 (\u22126.60 to \u22125.40)"
    assert copier.others == "probability \u22120.300, KL 1.500"


def test_both_circuits_of_a_pair(run):
    said = result(run)
    for words in (
        "16 random tokens, and the last 4 repeat 4 earlier ones",
        "64 prompts",
        "Both circuits have the same three parts",
        "The convolution of block 5 (its tap at A) 50%",
        "\u22123.00 (\u22123.30 to \u22122.70); probability \u22120.150, KL 0.750",
        "Can they do it?",
        f"{TRANSFORMER}: B above the wrong answer in 97% of the prompts, on top of all tokens in",
        "Head 2.1 60%",
        f"{MAMBA}: 90% (88% to 92%), all other scans",
        f"{TRANSFORMER}: 90% (88% to 92%), all other heads",
        f"{MAMBA}: B is carried by the position after it: off by one; largest at B+1 in 100%",
        "centre of mass 0.75 (0.70 to 0.80)",
        f"{MAMBA}: 3 of the 4 parts above.",
    ):
        assert words in said, words


def test_one_model_and_one_that_cannot(tmp_path):
    one = result(write_circuits(tmp_path / "one", (MAMBA,)))
    assert "The circuit has all three parts" in one and "Can it do it?" in one
    path = write_circuits(tmp_path / "two", (MAMBA,), cannot=("tiny",))
    two = result(path)
    assert "1 of 2 models has all three parts" in two
    assert "tiny cannot do the task, so it has no circuit." in two
    assert "cannot do the task: tiny puts the answer above the wrong one in 53% of" in two
    assert ability_table(circuits(path)).rows[1][-2:] == ["cannot do the task", "\u2013"]


def test_many_models_stand_one_below_the_other(tmp_path):
    names = (TRANSFORMER, "another", MAMBA, "mamba-s1")
    path = write_circuits(tmp_path / "run", names, cannot=("tiny",))
    lines = roles_table(circuits(path)).rows
    assert [line[0] for line in lines] == [*names, "tiny"]
    found = ["81%", "conv of 5, 50%", "scan of 5, 50%", "state of 5, 90%", "90%", "\u2013"]
    assert lines[2][1:] == [*found, "B+1", "A+2", "3 of 4"]
    assert lines[0][2] == "head 1.2, 50%"
    assert set(lines[4][2:]) == {"\u2013"}
    said = result(path)
    assert said.index("The strongest part of each role") < said.index("The parts, role by role")
    two = result(write_circuits(tmp_path / "two"))
    assert "The strongest part of each role, and" not in two


def test_a_circuit_that_is_whole_but_hardly_does_the_task_is_not_ticked(run, tmp_path):
    assert "✓Both circuits have" in result(run).replace("✓ ", "✓")
    path = write_circuits(tmp_path / "run")
    table = pl.read_parquet(path / "circuits.parquet")
    mamba = pl.col("model") == MAMBA
    right = pl.when(mamba).then(0.023).otherwise("accuracy").alias("accuracy")
    null = {f"null_{name}": pl.lit(0.95) for name in ("mean", "least", "most")}
    table.with_columns(right, faithful=~mamba, **null).write_parquet(path / "circuits.parquet")
    said = result(path)
    assert "✓" not in said and "Both circuits have the same three parts" in said
    assert f"{MAMBA} has B on top of all tokens in only 2.3% of the prompts." in said
    assert (
        f"{MAMBA}: the parts by themselves do 90% of what the model does, random ones up to" in said
    )
    assert f"{TRANSFORMER} has B on top" not in said


def test_where_no_model_can_there_is_the_result_alone(tmp_path):
    page = circuit_page(write_circuits(tmp_path / "none", (), cannot=("tiny",)))
    assert list(texts(page)) == ["Circuits"] and figures(page) == {}
    said = texts(page)["Circuits"]
    assert "No model does the task" in said and "Can it do it?" in said
    assert "role by role" not in said and "Off by one?" not in said


def test_a_part_whose_interval_reaches_zero_does_not_count(tmp_path):
    path = write_circuits(tmp_path / "run")
    roles = pl.read_parquet(path / "roles.parquet")
    unsure = (pl.col("model") == MAMBA) & (pl.col("role") == "matcher")
    above = pl.when(unsure).then(0.1).otherwise("change_hi").alias("change_hi")
    roles.with_columns(above).write_parquet(path / "roles.parquet")
    assert summary_values(circuits(path))["lacking"] == {MAMBA: ["matcher"]}
    said = result(path)
    assert f"{MAMBA}: no matcher above 5% of what the corruption costs." in said
    assert "1 of 2 models has all three parts" in said


def test_several_lacking_roles_are_named(tmp_path):
    path = write_circuits(tmp_path / "run", (MAMBA,))
    roles = pl.read_parquet(path / "roles.parquet")
    roles.clear().write_parquet(path / "roles.parquet")
    said = result(path)
    assert "no previous-token carrier, matcher or copier above 5%" in said
    assert "0 of 1 models have all three parts" in said and "none found" in said


def test_the_study_has_the_strongest_parts_in_short(run, tmp_path):
    page = study_page(run)
    said = texts(page)[IN_SHORT]
    assert "Both circuits have the same three parts" in said
    strongest = {
        model: parts[0].in_short for model, parts in aligned_roles(circuits(run))["copier"].items()
    }
    assert all(part in said for part in strongest.values()) and set(strongest) == {
        TRANSFORMER,
        MAMBA,
    }
    summary = next(chapter for chapter in page if chapter.title == IN_SHORT)
    assert summary.home and not summary.figures
    assert IN_SHORT not in texts(circuit_page(run))
    for file in (bare := write_circuits(tmp_path / "run")).glob("*.parquet"):
        file.unlink()
    assert IN_SHORT not in texts(study_page(bare))


def test_markup_in_names_is_text(tmp_path):
    path = write_circuits(tmp_path / "run", (EVIL,), cannot=(f"cannot {EVIL}",))
    page = circuit_page(path)
    assert all(EVIL not in chapter.body for chapter in page)
    assert "&lt;script&gt;" in page[0].body
