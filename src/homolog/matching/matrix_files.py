"""Feature matrices, documents and tokens from files, told apart by the end of their name.

    .npz           a sparse matrix, by scipy.sparse.save_npz
    .npy           an array, by numpy.save
    .safetensors   one tensor
    .parquet       columns of numbers, each a feature

None of them can run code when it is read.  What is damaged is refused: of a sparse matrix the
places of all entries are checked, for compiled loops trust them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse
from safetensors import safe_open

from homolog.errors import InputError


def read_matrix(path: Path | str) -> Any:
    """The matrix in a file, (rows, features): scipy.sparse, numpy or torch, as the file has it.

    InputError for another kind of file, one that is missing or damaged, and for several tensors.
    """
    return _read(Path(path), "feature matrix")


def read_numbers(path: Path | str) -> np.ndarray:
    """One number per row, (rows,): an array with one axis, or a table with one column.

    Errors as for `read_matrix`.
    """
    field = "numbers per row"
    values = _read(Path(path), field)
    if scipy.sparse.issparse(values):
        requirement = "a number for each row is no sparse matrix"
        raise InputError(field, str(path), requirement, "Save it by numpy.save.")
    array = np.asarray(values)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _read(path: Path, field: str) -> Any:
    if path.suffix not in READERS:
        requirement = f"its name must end in {', '.join(READERS)}"
        remedy = "Save it by scipy.sparse.save_npz, numpy.save or safetensors."
        raise InputError(field, str(path), requirement, remedy)
    if not path.is_file():
        raise InputError(field, str(path), "there is no such file", "Give the path of a file.")
    try:
        return READERS[path.suffix](path)
    except InputError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:
        # libraries say of a damaged file whatever their parsers met in it
        said = " ".join(str(error).split()) or type(error).__name__
        requirement = f"it must be a whole file of its kind ({said})"
        raise InputError(field, str(path), requirement, "Save it again.") from error


def _npz(path: Path) -> Any:
    with path.open("rb") as file:  # numpy leaves a damaged one open
        names = set(np.load(file, allow_pickle=False).files)
        if not {"format", "shape", "data"} <= names:
            requirement = "it must hold a sparse matrix as scipy.sparse.save_npz writes it"
            remedy = "Save a dense array by numpy.save, as .npy."
            raise InputError(f"arrays in {path}", sorted(names), requirement, remedy)
        file.seek(0)
        matrix: Any = scipy.sparse.load_npz(file)
    if hasattr(matrix, "check_format"):
        matrix.check_format(full_check=True)
    return scipy.sparse.csr_array(matrix)


def _npy(path: Path) -> Any:
    with path.open("rb") as file:
        return np.load(file, allow_pickle=False)


def _safetensors(path: Path) -> Any:
    with safe_open(path, framework="pt") as tensors:
        names = list(tensors.keys())
        if len(names) != 1:
            requirement = "one tensor is needed, (rows, features)"
            remedy = "Save each matrix to a file of its own."
            raise InputError(f"tensors in {path}", sorted(names), requirement, remedy)
        return tensors.get_tensor(names[0])


def _parquet(path: Path) -> Any:
    frame = pl.read_parquet(path, hive_partitioning=False)
    for name, kind in frame.schema.items():
        field = f"column {name} of {path}"
        if not (kind.is_numeric() or kind == pl.Boolean):
            requirement = "each column is a feature, a number per row"
            raise InputError(field, str(kind), requirement, "Leave out the others.")
        if nulls := frame[name].null_count():
            requirement = f"each row needs a number, and {nulls} have none"
            raise InputError(field, None, requirement, "Write 0 where a feature does not fire.")
    return frame.to_numpy()


READERS: dict[str, Callable[[Path], Any]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
}
