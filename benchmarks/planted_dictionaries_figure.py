"""The figure of `planted_dictionaries.py`."""

from pathlib import Path
import polars as pl


def save(rows: pl.DataFrame, path: Path) -> None:
    pass
