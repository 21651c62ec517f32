from __future__ import annotations

import json

import polars as pl
import pytest

from homolog.charts import words as wording
from homolog.errors import InputError
from homolog.report import read_pair, read_study, tables


def test_sides_follow_the_pair_and_labelled_sources(make_run, tmp_path):
    path = make_run(tmp_path / "run")
    summary = pl.read_parquet(path / "summary.parquet")
    # A control stored only under the dictionary's label belongs to its model; one read backwards
    # does not.
    relabelled = summary.with_columns(
        pl.when((pl.col("comparison") == "sae-seed") & (pl.col("model") == "mamba-s0"))
        .then(pl.lit("mamba-s0@seed1"))
        .otherwise(pl.col("model"))
        .alias("model")
    )
    backwards = summary.filter(pl.col("comparison") == "random-model").with_columns(
        pl.lit("mamba-random").alias("model")
    )
    pl.concat([relabelled, backwards]).write_parquet(path / "summary.parquet")
    records = read_pair(path)
    sides = dict(records.summary.select("model", "side").unique().rows())
    assert sides == {
        "transformer-s0": "A",
        "mamba-s0": "B",
        "mamba-s0@seed1": "B",
        "mamba-random": None,
    }


def test_widths_come_from_run_json_or_else_the_tables(make_run, tmp_path):
    path = make_run(tmp_path / "run", edit=lambda run: run.update(models=[]))
    records = read_pair(path)
    assert records.n_layers("transformer-s0") == 4
    assert records.n_layers("mamba-s0@seed1") == 8


@pytest.mark.parametrize(
    "gone, named",
    [
        (["layers.parquet"], "layers.parquet is missing"),
        (["matches.parquet", "saes.parquet"], "matches.parquet and saes.parquet are missing"),
    ],
)
def test_missing_tables_are_named(make_run, tmp_path, gone, named):
    path = make_run(tmp_path / "run")
    for name in gone:
        (path / name).unlink()
    with pytest.raises(InputError, match=named):
        read_pair(path)


def test_missing_column_is_named(make_run, tmp_path):
    path = make_run(tmp_path / "run")
    table = pl.read_parquet(path / "summary.parquet")
    table.drop("median_lo").write_parquet(path / "summary.parquet")
    with pytest.raises(InputError, match="median_lo"):
        read_pair(path)


@pytest.mark.parametrize(
    "table, column", [("matches", "null_r"), ("layers", "cka"), ("shared", "ceiling")]
)
def test_a_run_of_an_older_version_is_refused(make_run, tmp_path, table, column):
    path = make_run(tmp_path / "run")
    pl.read_parquet(path / f"{table}.parquet").drop(column).write_parquet(path / f"{table}.parquet")
    if table == "matches":
        (
            path / "shared.parquet"
        ).unlink()  # an older run has none; what is wrong with it is its age all the same
    with pytest.raises(InputError, match=rf"{table}\.parquet.*{column}.*another version"):
        read_pair(path)


def test_a_run_without_the_names_of_its_models_is_refused(make_run, tmp_path):
    path = make_run(tmp_path / "run", edit=lambda run: run.update(compared=["transformer-s0"]))
    with pytest.raises(InputError, match="compared"):
        read_pair(path)


def test_a_pair_of_three_has_its_own_rows_and_controls(make_run, tmp_path):
    path = make_run(tmp_path / "run", compared=("transformer-s0", "mamba-s0", "rwkv-s0"))
    records = read_pair(path, ("transformer-s0", "rwkv-s0"))
    found = set(records.matches.select("comparison", "side", "best_model").unique().rows())
    assert found == {
        ("main", "A", "rwkv-s0"),
        ("main", "B", "transformer-s0"),
        ("random-model", "A", "rwkv-random"),
        ("random-model", "B", "transformer-random"),
        ("rotated", "A", "rwkv-s0@rotated"),
        ("rotated", "B", "transformer-s0@rotated"),
        ("sae-seed", "A", "transformer-s0@seed1"),
        ("sae-seed", "B", "rwkv-s0@seed1"),
        ("model-seed", "A", "transformer-s1"),
        ("model-seed", "B", "rwkv-s1"),
        ("neurons", "A", "rwkv-s0"),
        ("neurons", "B", "transformer-s0"),
        ("neurons-random", "A", "rwkv-random"),
        ("neurons-random", "B", "transformer-random"),
        ("main-seed", "A", "rwkv-s0@seed1"),
        ("main-seed", "B", "transformer-s0@seed1"),
    }
    for table in (records.summary, records.layers, records.saes, records.shared, records.variance):
        names = {
            name
            for column in ("model", "best_model")
            if column in table.columns
            for name in table[column]
        }
        assert not any("mamba" in name for name in names)
    assert records.n_layers("rwkv-s0") == 3 and records.untrained() == {
        "rwkv-random",
        "transformer-random",
    }
    assert len(read_study(path).shared) == 6 and len(read_study(path).pairs) == 3


def test_controls_that_the_recipe_does_not_name_are_everybodys(make_run, tmp_path):
    three = ("transformer-s0", "mamba-s0", "rwkv-s0")
    path = make_run(tmp_path / "run", compared=three, edit=lambda run: run["recipe"].pop("models"))
    records = read_pair(path, ("transformer-s0", "rwkv-s0"))
    rows = records.matches.filter(
        (pl.col("comparison") == "random-model") & (pl.col("side") == "A")
    )
    assert set(rows["best_model"]) == {"mamba-random", "rwkv-random"}


def test_a_direction_without_a_verdict_is_withheld(make_run, tmp_path):
    records = read_pair(make_run(tmp_path / "run", edit=lambda run: run["verdicts"].pop(0)))
    verdict = records.verdict("transformer-s0", "mamba-s0")
    assert not verdict.given and verdict.reason == "run.json has none for this direction"
    assert (
        records.verdict("mamba-s0", "transformer-s0").words
        == "The planted words on mamba-s0 in transformer-s0."
    )


def test_a_damaged_table_is_named(make_run, tmp_path):
    path = make_run(tmp_path / "run")
    (path / "saes.parquet").write_bytes(b"not parquet")
    with pytest.raises(InputError, match=r"saes\.parquet"):
        read_pair(path)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"run\.json"):
        read_pair(tmp_path)


def test_facts_nested_in_run_json_are_found(make_run, tmp_path):
    def nest(run):
        run["facts"] = {key: run.pop(key) for key in ("corpus", "models", "compared", "verdicts")}

    path = make_run(tmp_path / "run", edit=nest)
    assert "facts" in json.loads((path / "run.json").read_text())
    records = read_pair(path)
    assert records.pair == records.compared == ("transformer-s0", "mamba-s0")
    assert records.verdict("mamba-s0", "transformer-s0").given
    assert records.run["corpus"]["n_tokens"] == 358_400


def test_dictionaries_show_their_sinks_where_a_run_has_them(make_run, tmp_path):
    path = make_run(tmp_path / "run")
    table = tables.dictionary_table(read_pair(path), own=True)
    place = table.columns.index("Variance in sinks")
    assert {row[place] for row in table.rows} == {"0.3%"} and all(
        len(row) == len(table.columns) for row in table.rows
    )
    saes = pl.read_parquet(path / "saes.parquet")
    saes.drop("sink_share").write_parquet(path / "saes.parquet")  # as runs had it before
    older = tables.dictionary_table(read_pair(path), own=True)
    assert {row[place] for row in older.rows} == {wording.MISSING}
