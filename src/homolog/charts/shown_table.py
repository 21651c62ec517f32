"""A table as a page shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Cells = Mapping[str, Callable[[Any], str]]
"""The columns of a table, each with what its cell says of a row."""


@dataclass(frozen=True)
class ShownTable:
    """A table as the template draws it: cells are text, escaped there.

    numeric: columns that align right.  strong: numbers of the rows to stress.  links: where the
    first cell of each row leads; none where empty.
    """

    caption: str
    columns: list[str]
    rows: list[list[str]]
    numeric: Sequence[int] = ()
    strong: Sequence[int] = ()
    links: Sequence[str] = ()

    @classmethod
    def of(cls, caption: str, cells: Cells, rows: Iterable[Any], **marks: Any) -> ShownTable:
        """A table with a row for each of `rows`.  marks: numeric, strong and links, as above."""
        made = [[said(row) for said in cells.values()] for row in rows]
        return cls(caption, list(cells), made, **marks)
