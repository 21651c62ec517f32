from __future__ import annotations

import json

import polars as pl
import pytest

from homolog.errors import InputError
from homolog.report import read_run


def test_sides_follow_the_pair_and_labelled_sources(make_run, tmp_path):
    path = make_run(tmp_path / "run")
    summary = pl.read_parquet(path / "summary.parquet")
    # A control stored only under the dictionary's label belongs to its model; one read backwards does not.
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
    records = read_run(path)
    sides = dict(records.summary.select("model", "side").unique().rows())
    assert sides == {"transformer-s0": "A", "mamba-s0": "B", "mamba-s0@seed1": "B", "mamba-random": None}


def test_widths_come_from_run_json_or_else_the_tables(make_run, tmp_path):
    path = make_run(tmp_path / "run", edit=lambda run: run.update(models=[]))
    records = read_run(path)
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
        read_run(path)


def test_missing_column_is_named(make_run, tmp_path):
    path = make_run(tmp_path / "run")
    table = pl.read_parquet(path / "summary.parquet")
    table.drop("median_lo").write_parquet(path / "summary.parquet")
    with pytest.raises(InputError, match="median_lo"):
        read_run(path)


def test_a_damaged_table_is_named(make_run, tmp_path):
    path = make_run(tmp_path / "run")
    (path / "saes.parquet").write_bytes(b"not parquet")
    with pytest.raises(InputError, match=r"saes\.parquet"):
        read_run(path)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"run\.json"):
        read_run(tmp_path)


def test_facts_nested_in_run_json_are_found(make_run, tmp_path):
    def nest(run):
        run["facts"] = {key: run.pop(key) for key in ("corpus", "models", "pair")}

    path = make_run(tmp_path / "run", edit=nest)
    assert "facts" in json.loads((path / "run.json").read_text())
    records = read_run(path)
    assert records.pair == ("transformer-s0", "mamba-s0")
    assert records.run["corpus"]["n_tokens"] == 358_400
