"""Matrices from files: each kind gives the same table, and what is no whole matrix is refused."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse
import torch
from safetensors.torch import save_file
from tests.damage import damage

import homolog
from homolog.errors import InputError
from homolog.matching import read_matrix, read_numbers

DOCUMENTS = np.repeat(np.arange(12), 50)


def features(seed: int, n_features: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    active = generator.random((len(DOCUMENTS), n_features)) < 0.1
    return (active * generator.exponential(size=active.shape)).astype(np.float32)


def save_npy(x: np.ndarray, path: Path) -> None:
    np.save(path, x)


def save_sparse(kind: str) -> Callable[[np.ndarray, Path], None]:
    return lambda x, path: scipy.sparse.save_npz(path, scipy.sparse.csr_array(x).asformat(kind))


def save_tensor(x: np.ndarray, path: Path) -> None:
    save_file({"features": torch.from_numpy(np.ascontiguousarray(x))}, path)


def save_table(x: np.ndarray, path: Path) -> None:
    pl.DataFrame({f"feature {i}": column for i, column in enumerate(x.T)}).write_parquet(path)


SAVED: dict[str, tuple[str, Callable[[np.ndarray, Path], None]]] = {
    "csr": (".npz", save_sparse("csr")),
    "csc": (".npz", save_sparse("csc")),
    "coo": (".npz", save_sparse("coo")),
    "bsr": (".npz", save_sparse("bsr")),
    "npy": (".npy", save_npy),
    "safetensors": (".safetensors", save_tensor),
    "parquet": (".parquet", save_table),
}


@pytest.mark.parametrize("kind", SAVED)
def test_the_kind_of_file_changes_nothing(kind, tmp_path):
    suffix, save = SAVED[kind]
    x, y = features(0, 9), features(1, 7)
    y[:, :4] += x[:, :4]
    save(x, tmp_path / f"x{suffix}")
    save(y, tmp_path / f"y{suffix}")
    left, right = read_matrix(tmp_path / f"x{suffix}"), read_matrix(tmp_path / f"y{suffix}")
    expected = homolog.match(x, y, documents=DOCUMENTS)
    assert homolog.match(left, right, documents=DOCUMENTS).matches.equals(expected.matches)


def test_half_precision_is_read_as_it_is(tmp_path):
    x = torch.tensor([[1.5, 0.0], [0.0, -2.0]], dtype=torch.bfloat16)
    save_file({"x": x}, tmp_path / "x.safetensors")
    assert torch.equal(read_matrix(tmp_path / "x.safetensors"), x)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_numbers_per_row_are_an_array_or_a_column(suffix, tmp_path):
    path = tmp_path / f"documents{suffix}"
    if suffix == ".npy":
        np.save(path, DOCUMENTS)
    elif suffix == ".safetensors":
        save_file({"document": torch.from_numpy(DOCUMENTS)}, path)
    else:
        pl.DataFrame({"document": DOCUMENTS}).write_parquet(path)
    numbers = read_numbers(path)
    assert numbers.dtype == np.int64 and np.array_equal(numbers, DOCUMENTS)


# ---- What is refused


def refused(path: Path, read: Callable[[Path], Any] = read_matrix) -> str:
    with pytest.raises(InputError) as error:
        read(path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_files_of_no_known_kind_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n")
    assert "its name must end in .npz, .npy, .safetensors, .parquet" in refused(tmp_path / "x.csv")
    assert "numbers per row is" in refused(tmp_path / "x.csv", read_numbers)
    assert "there is no such file" in refused(tmp_path / "missing.npz")
    (tmp_path / "folder.npy").mkdir()
    assert "there is no such file" in refused(tmp_path / "folder.npy")


def test_what_is_no_matrix_is_refused(tmp_path):
    np.savez(tmp_path / "dense.npz", x=np.ones((2, 2)))
    assert "as scipy.sparse.save_npz writes it" in refused(tmp_path / "dense.npz")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    assert "it must be a whole file" in refused(tmp_path / "objects.npy")
    both = {name: torch.ones(2, 2) for name in ("encoder", "decoder")}
    save_file(both, tmp_path / "two.safetensors")
    assert "['decoder', 'encoder'], but one tensor is needed" in refused(
        tmp_path / "two.safetensors"
    )
    pl.DataFrame({"x": [1.0], "token": ["the"]}).write_parquet(tmp_path / "words.parquet")
    assert "column token of" in refused(tmp_path / "words.parquet")
    pl.DataFrame({"x": [1.0, None, None]}).write_parquet(tmp_path / "nulls.parquet")
    assert "and 2 have none. Write 0" in refused(tmp_path / "nulls.parquet")
    scipy.sparse.save_npz(tmp_path / "sparse.npz", scipy.sparse.eye_array(3, format="csr"))
    assert "no sparse matrix" in refused(tmp_path / "sparse.npz", read_numbers)


@pytest.mark.parametrize(
    "change",
    [
        {"indices": np.array([0, 1, 7], np.int32)},  # of 3 columns
        {"indices": np.array([0, -1, 2], np.int32)},
        {"indptr": np.array([0, 1, 2, 9], np.int32)},
        {"indptr": np.array([0, 2, 1, 3], np.int32)},
        {"shape": np.array([3, 2])},
        {"format": np.array(b"nil")},
    ],
)
def test_sparse_entries_outside_the_matrix_are_refused(change, tmp_path):
    eye = {"indices": np.arange(3, dtype=np.int32), "indptr": np.arange(4, dtype=np.int32)}
    eye |= {"format": np.array(b"csr"), "shape": np.array([3, 3]), "data": np.ones(3)}
    np.savez(tmp_path / "eye.npz", **eye)
    assert read_matrix(tmp_path / "eye.npz").toarray().tolist() == np.eye(3).tolist()
    np.savez(tmp_path / "eye.npz", **eye | change)
    assert "it must be a whole file of its kind" in refused(tmp_path / "eye.npz")


@pytest.mark.parametrize("kind", SAVED)
def test_damaged_files_are_refused_or_read_as_numbers(kind, tmp_path, request):
    """A bit of a number may be another number; all else is an InputError that names the file."""
    suffix, save = SAVED[kind]
    whole = tmp_path / f"whole{suffix}"
    save(features(0, 4), whole)
    rng, n_refused = random.Random(0), 0
    n = request.config.getoption("--damages")
    for number in range(n):
        path = tmp_path / f"{number}{suffix}"
        shutil.copy(whole, path)
        said = damage([path], rng)
        try:
            with np.errstate(all="ignore"):
                matrix = read_matrix(path)
            assert isinstance(matrix, np.ndarray | torch.Tensor) or scipy.sparse.issparse(matrix)
        except InputError as error:
            n_refused += 1
            assert str(path) in str(error), said
    assert n_refused >= n // 4
