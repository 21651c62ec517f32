"""A table of a run: its columns with types and meaning, its file, and how it is written and read.

Each is described once, as a `Table`; schemas, checks, the files' list in the report, `Study` and
the page in docs/ derive from it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from homolog.errors import InputError
from homolog.record.atomic import atomic_path

Type = Any
"""A polars type, as `pl.Float32` or `pl.List(pl.String)`."""


@dataclass(frozen=True)
class Column:
    """A column.  means: in words, with the unit.  optional: tables of some runs lack it."""

    type: Type
    means: str
    optional: bool = False

    @property
    def type_name(self) -> str:
        """As documentation has it: "f32", "list[str]"."""
        inner = getattr(self.type, "inner", None)
        if inner is not None:
            return f"list[{Column(inner, '').type_name}]"
        return _TYPE_NAMES[self.type]


_TYPE_NAMES = {
    pl.String: "str",
    pl.Boolean: "bool",
    **{
        kind: f"i{8 * n}" for kind, n in ((pl.Int8, 1), (pl.Int16, 2), (pl.Int32, 4), (pl.Int64, 8))
    },
    **{kind: f"f{8 * n}" for kind, n in ((pl.Float32, 4), (pl.Float64, 8))},
}


@dataclass(frozen=True)
class Table:
    """A table by the name of its file.

    row: what a row stands for, as "feature and direction of a comparison".  columns: by name, in
    their order.  per_layer: it has a file for each layer of each model, under a folder of its name.
    """

    name: str
    row: str
    columns: Mapping[str, Column] = field(hash=False)
    per_layer: bool = False

    @property
    def file(self) -> str:
        """Relative to the run folder; of a table per layer, with MODEL and LAYER for those."""
        return f"{self.name}/MODEL/LAYER.parquet" if self.per_layer else f"{self.name}.parquet"

    @property
    def rows(self) -> str:
        """What a row is, in words."""
        return f"one row per {self.row}"

    @property
    def schema(self) -> dict[str, Type]:
        """Types by column, without the optional ones."""
        return {name: column.type for name, column in self.columns.items() if not column.optional}

    def only(self, *names: str) -> dict[str, Type]:
        """Types of some columns, for frames on their way to the table."""
        return {name: self.columns[name].type for name in names}

    def frame(
        self, rows: Iterable[Mapping[str, Any]] | Mapping[str, Any] | pl.DataFrame = ()
    ) -> pl.DataFrame:
        """A frame of these rows, or of columns by name, in the table's types and order.

        Columns that are not given are null; a column that the table does not have is an error.
        """
        if isinstance(rows, pl.DataFrame):
            return self._completed(rows)
        if isinstance(rows, Mapping):
            columns = {str(name): values for name, values in rows.items()}
            types = self._types_of(columns)
            return self._completed(pl.DataFrame(columns, schema_overrides=types))
        listed = list(rows)
        types = self._types_of(dict.fromkeys(key for row in listed for key in row))
        return self._completed(pl.DataFrame(listed, schema=types))

    def _types_of(self, names: Iterable[str]) -> dict[str, Type]:
        unknown = set(names) - self.columns.keys()
        assert not unknown, (self.name, unknown)
        return {name: self.columns[name].type for name in names}

    def _completed(self, frame: pl.DataFrame) -> pl.DataFrame:
        names = self._types_of(frame.columns)
        schema = {n: c.type for n, c in self.columns.items() if n in names or not c.optional}
        return completed(frame, schema).select(list(schema)).cast(pl.Schema(schema))

    def write(self, frame: pl.DataFrame, path: Path) -> None:
        """Write a frame to `path`, which appears when it is complete.

        Its columns must be this table's, of their types and in their order, optional ones or not.
        """
        known = {name: c.type for name, c in self.columns.items() if name in frame.columns}
        assert dict(frame.schema) == known and frame.columns == list(known), (
            self.name,
            {n: t for n, t in frame.schema.items() if known.get(n) != t} or frame.columns,
        )
        assert self.schema.keys() <= known.keys(), (self.name, self.schema.keys() - known.keys())
        write_table(frame, path)

    def read(self, path: Path, columns: Iterable[str] | None = None) -> pl.DataFrame:
        """The table at `path`, or some of its columns; optional ones that it lacks are null.

        InputError names the file and what is wrong with it.
        """
        with readable(path):
            return self.scan(path).select(list(columns or self.columns)).collect()

    def scan(self, path: Path) -> pl.LazyFrame:
        """The same, to be read in part."""
        with readable(path):
            there = pl.read_parquet_schema(path)
            self.check(path, there)
            types = {name: column.type for name, column in self.columns.items()}
            absent = {name: pl.lit(None, kind) for name, kind in types.items() if name not in there}
            return pl.scan_parquet(path).with_columns(**absent).select(list(types))

    def check(self, path: Path, schema: Mapping[str, Type]) -> None:
        """InputError unless the columns that are not optional are there, all in their types."""
        if missing := [name for name in self.schema if name not in schema]:
            raise _other_version(path, f"it must have the column(s) {', '.join(missing)}")
        for name, column in self.columns.items():
            if schema.get(name, column.type) != column.type:
                raise _other_version(path, f"its column {name} must be {column.type_name}")


def completed(frame: pl.DataFrame, types: Mapping[str, Type]) -> pl.DataFrame:
    """`frame` with the columns of `types` that it lacks, all null."""
    missing = {name: kind for name, kind in types.items() if name not in frame.columns}
    return frame.with_columns(pl.lit(None, kind).alias(name) for name, kind in missing.items())


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """InputError that names the file where a table cannot be read."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(
            "table",
            str(path),
            f"it must be readable as Parquet ({error})",
            "Delete it and run again with the same --out: it is rebuilt.",
        ) from error


def write_table(frame: pl.DataFrame, path: Path) -> None:
    """Write any frame so that it appears under its name only when complete."""
    with atomic_path(path) as partial:
        frame.write_parquet(partial)


def _other_version(path: Path, requirement: str) -> InputError:
    remedy = "It comes from another version of homolog: run again into a new --out."
    return InputError("table", str(path), requirement, remedy)
