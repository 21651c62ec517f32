from __future__ import annotations

import json

import polars as pl
import pytest
from tests.analyses.planted_run import A, B, C, make_run, read_pair

from homolog.analyses.records import NEEDED, read_study
from homolog.errors import InputError
from homolog.record.comparisons import RANDOM_MODEL, SAE_SEED
from homolog.record.sides import MAIN_LABEL, NEURON
from homolog.record.tables import SUMMARY, TABLES


def test_sides_follow_the_pair_and_its_main_dictionaries(tmp_path):
    path = make_run(tmp_path / "run")
    summary = SUMMARY.read(path / SUMMARY.file)
    # Controls read backwards are about no side: of a second dictionary, and of another model.
    own = ("model", "label", "best_model", "best_label")
    turned = dict(zip(own, (*own[2:], *own[:2]), strict=True))
    controls = summary.filter(pl.col("comparison").is_in([SAE_SEED.name, RANDOM_MODEL.name]))
    backwards = controls.rename(turned).select(*SUMMARY.columns)
    SUMMARY.write(pl.concat([summary, backwards]), path / SUMMARY.file)
    records = read_pair(path)
    rows = records.summary.select("model", "label", "side").rows()
    sides = {(model, label): side for model, label, side in rows}
    assert sides == {
        **{(A, label): "A" for label in (MAIN_LABEL, NEURON)},
        **{(B, label): "B" for label in (MAIN_LABEL, NEURON)},
        **{(model, "seed1"): None for model in (A, B)},
        ("transformer-random", MAIN_LABEL): None,
        ("mamba-random", MAIN_LABEL): None,
    }


def test_widths_come_from_run_json_or_else_the_tables(tmp_path):
    path = make_run(tmp_path / "run", edit=lambda run: run.update(models=[]))
    records = read_pair(path)
    assert records.n_layers(A) == 4 and records.n_layers(B) == 8


def test_a_table_that_the_run_lacks_has_no_rows(tmp_path):
    records = read_pair(make_run(tmp_path / "run"))
    absent = [table for table in TABLES if not (records.path / table.file).exists()]
    assert absent and not any(records.has(table) for table in absent)
    for table in absent:
        assert records.table(table).is_empty()
        assert set(records.table(table).columns) >= set(table.schema)
    assert all(records.has(table) and records.table(table).height for table in NEEDED)


@pytest.mark.parametrize(
    "gone, named",
    [
        (["layers.parquet"], "layers.parquet is missing"),
        (["matches.parquet", "saes.parquet"], "matches.parquet and saes.parquet are missing"),
    ],
)
def test_missing_tables_are_named(tmp_path, gone, named):
    path = make_run(tmp_path / "run")
    for name in gone:
        (path / name).unlink()
    with pytest.raises(InputError, match=named):
        read_pair(path)


def test_missing_column_is_named(tmp_path):
    path = make_run(tmp_path / "run")
    table = pl.read_parquet(path / "summary.parquet")
    table.drop("median_lo").write_parquet(path / "summary.parquet")
    with pytest.raises(InputError, match="median_lo"):
        read_pair(path)


@pytest.mark.parametrize(
    "table, column", [("matches", "null_r"), ("layers", "cka"), ("shared", "ceiling")]
)
def test_a_run_of_an_older_version_is_refused(tmp_path, table, column):
    path = make_run(tmp_path / "run")
    pl.read_parquet(path / f"{table}.parquet").drop(column).write_parquet(path / f"{table}.parquet")
    if table == "matches":
        (path / "shared.parquet").unlink()  # an older run has none: its age is what is wrong
    with pytest.raises(InputError, match=rf"{table}\.parquet.*{column}.*another version"):
        read_pair(path)


def test_a_run_without_the_names_of_its_models_is_refused(tmp_path):
    path = make_run(tmp_path / "run", edit=lambda run: run.update(compared=["transformer-s0"]))
    with pytest.raises(InputError, match="compared"):
        read_pair(path)


def test_a_pair_of_three_has_its_own_rows_and_controls(tmp_path):
    path = make_run(tmp_path / "run", compared=("transformer-s0", "mamba-s0", "rwkv-s0"))
    records = read_pair(path, ("transformer-s0", "rwkv-s0"))
    columns = ("comparison", "side", "best_model", "best_label")
    rows = set(records.matches.select(columns).unique().rows())
    assert rows == {
        ("main", "A", C, "sae"),
        ("main", "B", A, "sae"),
        ("random-model", "A", "rwkv-random", "sae"),
        ("random-model", "B", "transformer-random", "sae"),
        ("rotated", "A", C, "rotated"),
        ("rotated", "B", A, "rotated"),
        ("sae-seed", "A", A, "seed1"),
        ("sae-seed", "B", C, "seed1"),
        ("model-seed", "A", "transformer-s1", "sae"),
        ("model-seed", "B", "rwkv-s1", "sae"),
        ("neurons", "A", C, "neuron"),
        ("neurons", "B", A, "neuron"),
        ("neurons-random", "A", "rwkv-random", "neuron"),
        ("neurons-random", "B", "transformer-random", "neuron"),
        ("main-seed", "A", C, "seed1"),
        ("main-seed", "B", A, "seed1"),
    }
    for table in (records.summary, records.layers, records.saes, records.shared, records.variance):
        columns = [name for name in ("model", "best_model") if name in table.columns]
        assert not any("mamba" in name for column in columns for name in table[column])
    assert records.n_layers(C) == 3
    assert records.untrained() == {"rwkv-random", "transformer-random"}
    study = read_study(path)
    assert study.shared.height == 6 and study.pairs == [(A, B), (A, C), (B, C)]
    assert study.of((A, C)).names == (A, C) and study.names == (A, B, C)


def test_controls_are_known_by_the_names_that_the_run_gave_them(tmp_path):
    three = ("transformer-s0", "mamba-s0", "rwkv-s0")
    controls = {m: [f"{m.split('-')[0]}-{kind}" for kind in ("random", "s1")] for m in three}

    def named(run):
        for model in run["recipe"]["models"]:
            model["ref"] = "runs/" + model["ref"].removeprefix("zoo:")
        run["controls"] = controls

    path = make_run(tmp_path / "run", compared=three, edit=named)
    assert read_study(path).controls == controls
    assert read_pair(path, ("transformer-s0", "rwkv-s0")).untrained() == {
        "rwkv-random",
        "transformer-random",
    }


def test_controls_that_the_recipe_does_not_name_are_everybodys(tmp_path):
    three = ("transformer-s0", "mamba-s0", "rwkv-s0")
    path = make_run(tmp_path / "run", compared=three, edit=lambda run: run["recipe"].pop("models"))
    records = read_pair(path, ("transformer-s0", "rwkv-s0"))
    rows = records.matches.filter(
        (pl.col("comparison") == "random-model") & (pl.col("side") == "A")
    )
    assert set(rows["best_model"]) == {"mamba-random", "rwkv-random"}


def test_a_direction_without_a_verdict_is_withheld(tmp_path):
    records = read_pair(make_run(tmp_path / "run", edit=lambda run: run["verdicts"].pop(0)))
    verdict = records.verdict("transformer-s0", "mamba-s0")
    assert not verdict.given and verdict.reason == "run.json has none for this direction"
    assert (
        records.verdict("mamba-s0", "transformer-s0").words
        == "The planted words on mamba-s0 in transformer-s0."
    )


def test_a_damaged_table_is_named(tmp_path):
    path = make_run(tmp_path / "run")
    (path / "saes.parquet").write_bytes(b"not parquet")
    with pytest.raises(InputError, match=r"saes\.parquet"):
        read_pair(path)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"run\.json"):
        read_pair(tmp_path)


def test_facts_nested_in_run_json_are_found(tmp_path):
    def nest(run):
        run["facts"] = {key: run.pop(key) for key in ("corpus", "models", "compared", "verdicts")}

    path = make_run(tmp_path / "run", edit=nest)
    assert "facts" in json.loads((path / "run.json").read_text())
    records = read_pair(path)
    assert records.pair == records.compared == ("transformer-s0", "mamba-s0")
    assert records.verdict("mamba-s0", "transformer-s0").given
    assert records.run["corpus"]["n_tokens"] == 358_400
