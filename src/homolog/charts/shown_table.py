"""A table as a page shows it."""

from __future__ import annotations

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
