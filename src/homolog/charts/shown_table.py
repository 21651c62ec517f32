"""A table as a page shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ShownTable:
    """A table as the template draws it: cells are text, escaped there.

    numeric: columns that align right.  strong: numbers of the rows to stress.  links: where the
    first cell of each row leads; none where empty.
    """

    caption: str
    columns: list[str]
    rows: list[list[str]]
    numeric: frozenset[int] = frozenset()
    strong: frozenset[int] = frozenset()
    links: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls, caption: str, rows: Sequence[Mapping[str, str]], numeric: Iterable[int] = ()
    ) -> ShownTable:
        """A table of rows that have their cells by column."""
        columns = list(rows[0]) if rows else []
        return cls(caption, columns, [list(row.values()) for row in rows], frozenset(numeric))
