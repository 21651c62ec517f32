"""Words to describe a table with: types, columns that many tables have, intervals."""

from __future__ import annotations

import dataclasses

import polars as pl

from homolog.record.table import Column, Table, Type

TEXT, BOOL, I8, I16, I32, I64 = pl.String, pl.Boolean, pl.Int8, pl.Int16, pl.Int32, pl.Int64
F32, F64 = pl.Float32, pl.Float64
TEXTS, WHOLES, NUMBERS = pl.List(pl.String), pl.List(pl.Int32), pl.List(pl.Float32)
MODEL = {"model": (TEXT, "name of the model"), "architecture": (TEXT, "its architecture")}
FEATURE = {
    "model": (TEXT, "name of the model"),
    "layer": (I32, "block, from 0"),
    "feature": (I32, "feature of the dictionary after that block"),
}
FEATURE_KEY = list(FEATURE)
"""Columns that name a feature."""
MATCH_KEY = [*FEATURE_KEY, "best_model"]
"""The same, and the model in which it is looked for."""


def table(name: str, row: str, /, **columns: tuple[Type, str] | Column) -> Table:
    described = {n: c if isinstance(c, Column) else Column(*c) for n, c in columns.items()}
    return Table(name, row, described)


def table_per_layer(name: str, row: str, /, **columns: tuple[Type, str] | Column) -> Table:
    return dataclasses.replace(table(name, row, **columns), per_layer=True)


def maybe(kind: Type, means: str) -> Column:
    return Column(kind, means, optional=True)


def interval(name: str, means: str, kind: Type = F64) -> dict[str, tuple[Type, str]]:
    return {
        name: (kind, means),
        f"{name}_lo": (kind, "lower end of its interval"),
        f"{name}_hi": (kind, "upper end of its interval"),
    }


def drawn(name: str, means: str) -> dict[str, tuple[Type, str]]:
    """Of what was drawn at random."""
    return {
        f"{name}_mean": (F64, f"{means}, mean of the draws"),
        f"{name}_least": (F64, "the lowest of them"),
        f"{name}_most": (F64, "the highest of them"),
    }
