"""The tables of circuits: read, checked together, and asked for patches."""

from __future__ import annotations

import polars as pl
import pytest
from tests.analyses.circuit_sections import circuits
from tests.analyses.planted_circuits import MAMBA, TRANSFORMER, role, write_circuits

from homolog.analyses.induction.records import read_circuits
from homolog.errors import InputError
from homolog.record.tables import CIRCUITS


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return circuits(write_circuits(tmp_path_factory.mktemp("circuits") / "run"))


def test_models_stand_in_the_order_of_their_table(tmp_path):
    records = circuits(write_circuits(tmp_path / "run", (TRANSFORMER, MAMBA), cannot=("a",)))
    assert records.names == (TRANSFORMER, MAMBA, "a") and records.able == [TRANSFORMER, MAMBA]


def test_a_run_without_circuits_has_none(tmp_path):
    path = write_circuits(tmp_path / "run")
    for file in path.glob("*.parquet"):
        file.unlink()
    assert read_circuits(path) is None


def test_a_part_finds_the_patch_that_shows_it(records):
    carrier, upstream = records.parts(MAMBA, "previous-token carrier")
    patch = records.patch(carrier)
    assert patch["experiment"] == "convolution into the write at B"
    assert patch["corruption"] == "replace_A"
    assert patch["probability"] == pytest.approx(-3 / 20) and patch["kl"] == pytest.approx(3 / 4)
    assert records.patch(upstream)["receiver"] == "state.5"
    assert records.patch(role("copier", "state.5", -8.0, 10) | {"model": MAMBA}) is None


def test_columns_that_only_some_runs_have_are_null(tmp_path):
    path = write_circuits(tmp_path / "run", (), cannot=("tiny",))
    optional = [name for name, column in CIRCUITS.columns.items() if column.optional]
    assert not set(optional) & set(pl.read_parquet_schema(path / "circuits.parquet"))
    row = circuits(path).about("tiny")
    assert [row[name] for name in optional] == [None] * len(optional)


def rewrite(name, change):
    def damage(run):
        file = run / f"{name}.parquet"
        change(pl.read_parquet(file)).write_parquet(file)

    return damage


@pytest.mark.parametrize(
    "damage, named",
    [
        (lambda run: (run / "roles.parquet").unlink(), r"lacks roles\.parquet"),
        (
            lambda run: (run / "offsets.parquet").write_bytes(b"not parquet"),
            r"offsets\.parquet.*must be readable",
        ),
        (rewrite("effects", lambda t: t.drop("change_lo")), r"effects\.parquet.*change_lo"),
        (
            rewrite("roles", lambda t: t.with_columns(share=pl.lit("much"))),
            r"roles\.parquet.*share must be f64",
        ),
        (rewrite("circuits", lambda t: pl.concat([t, t])), "one row per model"),
        (rewrite("circuits", lambda t: t.clear()), "one row per model"),
        (
            rewrite("offsets", lambda t: t.with_columns(model=pl.lit("stranger"))),
            r"offsets\.parquet.*stranger",
        ),
    ],
)
def test_damaged_tables_are_named(tmp_path, damage, named):
    path = write_circuits(tmp_path / "run")
    damage(path)
    with pytest.raises(InputError, match=f"(?s){named}"):
        read_circuits(path)
