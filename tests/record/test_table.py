"""A table is described once: what is written, read, refused and documented follows from that."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from homolog.errors import InputError
from homolog.record.table import Column, Table
from homolog.record.tables import TABLES, page

TALL = Table(
    "tall",
    "tree",
    {
        "name": Column(pl.String, "what it is called"),
        "height": Column(pl.Float32, "in metres"),
        "rings": Column(pl.List(pl.Int32), "of its trunk", optional=True),
    },
)


def test_a_frame_has_the_types_and_the_order_of_the_table() -> None:
    frame = TALL.frame([{"height": 3, "name": "ash"}, {"name": "elm", "height": None}])
    assert frame.schema == {"name": pl.String, "height": pl.Float32}
    assert frame.rows() == [("ash", 3.0), ("elm", None)]
    assert TALL.frame({"rings": [[1, 2]], "name": ["oak"]}).columns == ["name", "height", "rings"]
    assert TALL.frame().schema == TALL.schema


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tall.parquet"
    frame = TALL.frame([{"name": "ash", "height": 3.5}])
    TALL.write(frame, path)
    assert TALL.read(path).rows() == [("ash", 3.5, None)]
    assert TALL.read(path, ["height"]).rows() == [(3.5,)]
    assert TALL.read(path, ["rings"]).rows() == [(None,)]
    assert TALL.scan(path).collect().equals(TALL.read(path))


@pytest.mark.parametrize(
    "frame",
    [
        pl.DataFrame({"name": ["ash"]}),
        pl.DataFrame({"name": ["ash"], "height": [3.0]}),
        TALL.frame([{"name": "ash"}]).select("height", "name"),
        TALL.frame([{"name": "ash"}]).with_columns(more=1),
    ],
    ids=["a column missing", "another type", "another order", "a column more"],
)
def test_another_frame_is_never_written(frame: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="tall"):
        TALL.write(frame, tmp_path / "tall.parquet")
    assert not list(tmp_path.iterdir())


def test_a_column_that_the_table_does_not_have_is_an_error() -> None:
    with pytest.raises(AssertionError, match="depth"):
        TALL.frame([{"name": "ash", "depth": 1}])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.DataFrame({"name": ["ash"]}), "must have the column.s. height"),
        (pl.DataFrame({"name": ["ash"], "height": [3]}), "column height must be f32"),
    ],
)
def test_a_file_of_another_version_is_refused(
    frame: pl.DataFrame, message: str, tmp_path: Path
) -> None:
    frame.write_parquet(tmp_path / "tall.parquet")
    with pytest.raises(InputError, match=message):
        TALL.read(tmp_path / "tall.parquet")


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tall.parquet").write_text("not Parquet")
    with pytest.raises(InputError, match="readable as Parquet"):
        TALL.read(tmp_path / "tall.parquet")


def test_the_page_has_every_column_of_every_table() -> None:
    text = page((*TABLES, TALL))
    assert "| rings | list[i32], not in every run | of its trunk |" in text
    assert "`tall.parquet`, one row per tree." in text
    for table in TABLES:
        part = text.split(f"\n## {table.name}\n")[1].split("\n## ")[0]
        assert part.count("\n| ") == len(table.columns) + 1
    assert "`contexts/MODEL/LAYER.parquet`" in text


def test_tables_have_names_of_their_own() -> None:
    assert len({table.name for table in TABLES}) == len(TABLES)
