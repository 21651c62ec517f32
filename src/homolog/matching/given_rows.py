"""What a user says of the rows of matrices, checked: names, documents, tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from homolog.errors import InputError

BLOCKS = 64
"""Blocks into which rows are cut that have no documents, at most."""
BLOCK_ROWS = 16
"""Rows of such a block, at least, where there are enough for two."""
MANY_DOCUMENTS = 8
"""With fewer, null and intervals rest on little."""


@dataclass(frozen=True, eq=False)
class Documents:
    """The document of each row, how there came to be any, and what to beware of ("" for nothing).

    document: int64 (rows,), from 0.
    """

    document: Int[np.ndarray, "row"]
    words: str
    caution: str = ""

    @property
    def n_documents(self) -> int:
        return int(self.document.max()) + 1


def documents_of(documents: Any, n_rows: int) -> Documents:
    """Documents as they were given: of each row, or where each begins; None: blocks of rows.

    InputError for what is neither, and for fewer than two.
    """
    if documents is None:
        return _blocks(n_rows)
    given = _integers("documents", documents)
    if len(given) != n_rows:
        ascends = len(given) and given[0] == 0 and (np.diff(given) > 0).all()
        if not ascends or given[-1] >= n_rows:
            requirement = (
                f"each of the {n_rows} rows needs its document, or each document its first row, "
                "ascending from 0"
            )
            remedy = "Encode both sides on the same rows, and give the document of each."
            raise InputError("shape of documents", given.shape, requirement, remedy)
        given = np.repeat(np.arange(len(given)), np.diff([*given.tolist(), n_rows]))
    number = np.unique(given, return_inverse=True)[1].astype(np.int64)
    n_documents = int(number.max()) + 1
    if n_documents < 2:
        requirement = "the null exchanges documents and intervals resample them: two are needed"
        remedy = "Give a smaller unit (paragraphs, trials), or leave it out for blocks of rows."
        raise InputError("number of documents", n_documents, requirement, remedy)
    few = n_documents < MANY_DOCUMENTS
    caution = f"there are {n_documents} documents: null and intervals rest on little" if few else ""
    return Documents(number, f"{n_documents} documents", caution)


def _blocks(n_rows: int) -> Documents:
    n_blocks = min(BLOCKS, max(2, n_rows // BLOCK_ROWS))
    if n_rows < n_blocks:
        requirement = (
            "the null exchanges blocks of rows and intervals resample them: two are needed"
        )
        raise InputError("rows", n_rows, requirement, "Give more rows.")
    words = f"{n_blocks} blocks of consecutive rows"
    caution = (
        f"no documents were given, and {words} stand for them: where rows of one document lie in "
        "several blocks, p is too low and intervals are too narrow"
    )
    return Documents(np.arange(n_rows) * n_blocks // n_rows, words, caution)


def tokens_of(tokens: Any, n_rows: int) -> Int[np.ndarray, "row"]:
    """The token of each row, int64 (rows,).  InputError for another number, or what is no id."""
    given = _integers("tokens", tokens)
    if len(given) != n_rows:
        requirement = f"each of the {n_rows} rows needs its token or condition"
        raise InputError("shape of tokens", given.shape, requirement, "Give one number per row.")
    for id_ in (given.min(), given.max()):
        if not 0 <= id_ < 1 << 31:
            requirement = "ids are numbers from 0 that fit into 31 bits"
            raise InputError("tokens", int(id_), requirement, "Number the conditions from 0.")
    return given


def require_names(
    names: Sequence[str], controls: Any, reserved: Sequence[str]
) -> Mapping[str, Any]:
    """The controls by name.  InputError unless all names differ, and from those reserved."""
    if controls is not None and not isinstance(controls, Mapping):
        requirement = "each control needs a name"
        remedy = 'Give a mapping, as {"untrained": matrix}.'
        raise InputError("controls", type(controls).__name__, requirement, remedy)
    if len(names) != 2:
        raise InputError("names", tuple(names), "there are two sides", 'Give ("a", "b").')
    taken = set(reserved)
    for name in (*names, *(controls or {})):
        if not name or name in taken:
            requirement = "sides and controls have names that differ, and are not "
            requirement += f"{', '.join(reserved[:-1])} or {reserved[-1]}"
            raise InputError("name", name, requirement, "Give it another name.")
        taken.add(name)
    return controls or {}


def require_side(of: str | None, names: Sequence[str], control: str) -> None:
    """InputError unless a control stands for one of the sides."""
    if of is not None and of not in names:
        requirement = f"it takes the place of {names[0]} or of {names[1]}"
        remedy = "Name one of the two, or give the matrix itself for both."
        raise InputError(f"side of the control {control}", of, requirement, remedy)


def require_rows(matrices: Mapping[str, Any]) -> int:
    """The number of rows, which all matrices have.  InputError for another, or for no features."""
    first, n_rows = next((name, matrix.shape[0]) for name, matrix in matrices.items())
    for name, matrix in matrices.items():
        if matrix.shape[0] != n_rows:
            requirement = f"it needs the {n_rows} rows of {first}: row t of all is the same thing"
            remedy = "Encode all on the same rows, in one order, with the same mask."
            raise InputError(f"rows of {name}", matrix.shape[0], requirement, remedy)
        if not matrix.shape[1]:
            requirement = "at least one feature is needed"
            raise InputError(f"features of {name}", 0, requirement, "Give one column per feature.")
    return n_rows


def _integers(field: str, values: Any) -> np.ndarray:
    """A list of integers as int64; InputError for anything else."""
    given = np.asarray(values)
    if given.ndim != 1:
        requirement = "one number for each row is needed"
        raise InputError(f"shape of {field}", given.shape, requirement, "Give it one axis.")
    if not np.issubdtype(given.dtype, np.integer):
        requirement = "they are integers"
        raise InputError(f"dtype of {field}", str(given.dtype), requirement, "Number them from 0.")
    return given.astype(np.int64)
