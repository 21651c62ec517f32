"""Documents from text files, JSONL, Parquet and Hugging Face datasets, in an order that a seed decides."""

from __future__ import annotations

import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from homolog.errors import InputError
from homolog.zoo import catalog

_ORDER = int.from_bytes(b"corpus order", "little")  # keeps this draw apart from others with the same seed
_DATASET = "hf:"


@dataclass(frozen=True)
class Document:
    """One text, and where it is from ("FILE", "FILE:LINE" or "DATASET[ROW]")."""

    text: str
    source: str


def read_documents(
    source: Any, *, field: str = "text", split: str = "train", shuffle: bool = True, seed: int = 0
) -> Iterator[Document]:
    """Documents of `source`, shuffled across the whole of it unless `shuffle` is off.

    source  "zoo:demo"; a .txt (one document), .jsonl, .jsonl.gz, .jsonl.xz or .parquet file; a folder of
            those (with subfolders), or one that `datasets` saved; "hf:ID" or a `datasets.Dataset`
    field   name of the text in JSONL, Parquet and datasets
    split   of a dataset
    seed    of the order
    Empty texts are left out.
    Raises `InputError` for a missing or unreadable source and for a record without the field.
    """
    dataset = _as_dataset(source, split)
    if dataset is not None:
        yield from _from_dataset(dataset, str(source) if isinstance(source, str | Path) else "dataset",
                                 field, _order(len(dataset), shuffle, seed))  # fmt: skip
        return
    path = catalog.DEMO_TEXT if source == "zoo:demo" else Path(source).expanduser()
    documents = (document for file in _files(path) for document in _reader(file)(file, field))
    documents = (document for document in documents if document.text.strip())
    if not shuffle:
        yield from documents
        return
    everything = list(documents)
    for index in _order(len(everything), shuffle, seed):
        yield everything[index]


def _order(n: int, shuffle: bool, seed: int) -> np.ndarray:
    return np.random.default_rng([_ORDER, seed]).permutation(n) if shuffle else np.arange(n)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(
            "corpus", str(path), "there must be a file or a folder of that name",
            'Give a .txt, .jsonl or .parquet file, a folder of them, "zoo:demo", or "hf:ID" for a dataset.',
        )  # fmt: skip
    files = sorted(file for file in path.rglob("*") if file.is_file() and _suffix(file) in _READERS)
    if not files:
        raise InputError(
            "corpus", str(path), f"the folder must hold files of a known kind ({', '.join(_READERS)})",
            "Give another folder, or name one file.",
        )  # fmt: skip
    return files


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] in ([".gz"], [".xz"])
    return "".join(suffixes[-2:] if packed else suffixes[-1:])


def _reader(path: Path) -> Callable[[Path, str], Iterator[Document]]:
    reader = _READERS.get(_suffix(path))
    if reader is None:
        raise InputError(
            "corpus",
            str(path),
            f"the file must be of a known kind ({', '.join(_READERS)})",
            "Convert it to one.",
        )
    return reader


def _from_text(path: Path, field: str) -> Iterator[Document]:
    try:
        yield Document(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError("corpus", str(path), f"it must be UTF-8 text ({error})", "Convert it.") from error


def _from_jsonl(path: Path, field: str) -> Iterator[Document]:
    number = 0
    try:
        with _open_text(path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _record(json.loads(line), field, f"{path}:{number}")
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            "corpus", f"{path}:{number + isinstance(error, UnicodeDecodeError)}",
            f"each line must be a JSON object in UTF-8 ({error})", "Mend or remove that line.",
        ) from error  # fmt: skip
    except (gzip.BadGzipFile, lzma.LZMAError, EOFError) as error:
        raise InputError("corpus", str(path), f"it must be a whole compressed file ({error})",
                         "Fetch it again.") from error  # fmt: skip


def _open_text(path: Path) -> io.TextIOWrapper:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    if path.suffix.lower() == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _record(record: Any, field: str, place: str) -> Document:
    text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        found = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise InputError(
            "corpus", place, f"it must have a text in the field {field!r} (found: {found})",
            "Name the field that holds the text: `field` in [corpus].",
        )  # fmt: skip
    return Document(text, place)


def _from_parquet(path: Path, field: str) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError("corpus", str(path), f"it must be Parquet ({error})", "Fetch it again.") from error
    with file:
        _check_field(field, file.schema_arrow.names, str(path))
        row = 0
        for batch in file.iter_batches(batch_size=1024, columns=[field]):
            for text in batch.column(0).to_pylist():
                yield _record({field: text}, field, f"{path}[{row}]")
                row += 1


def _as_dataset(source: Any, split: str) -> Any:
    """The `datasets.Dataset` that `source` is or names; None if it is files."""
    if not isinstance(source, str | Path):
        return _split_of(source, split)
    path = Path(source)
    saved = (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists()
    if not saved and not str(source).startswith(_DATASET):
        return None
    try:
        import datasets
    except ImportError as error:
        raise InputError("corpus", str(source), "Hugging Face datasets need the package `datasets`",
                         "pip install 'homolog[data]'") from error  # fmt: skip
    if saved:
        return _split_of(datasets.load_from_disk(str(path)), split)
    try:
        return datasets.load_dataset(str(source).removeprefix(_DATASET), split=split)
    except (OSError, ValueError, IndexError) as error:
        raise InputError(
            "corpus", str(source), f"the dataset must be within reach ({error})",
            "Check the id, the split and the network, or give local files.",
        ) from error  # fmt: skip


def _split_of(dataset: Any, split: str) -> Any:
    if not isinstance(dataset, dict):
        return dataset
    if split not in dataset:
        raise InputError("corpus split", split, f"the dataset has {', '.join(map(str, dataset))}", "Name one.")
    return dataset[split]


def _from_dataset(dataset: Any, name: str, field: str, order: np.ndarray) -> Iterator[Document]:
    _check_field(field, dataset.column_names, name)
    for start in range(0, len(order), 256):  # reading rows together is much faster than one by one
        rows = order[start : start + 256]
        for row, text in zip(rows, dataset[rows.tolist()][field], strict=True):
            document = _record({field: text}, field, f"{name}[{row}]")
            if document.text.strip():
                yield document


def _check_field(field: str, columns: list[str], place: str) -> None:
    if field not in columns:
        _record(dict.fromkeys(columns), field, place)


_READERS: dict[str, Callable[[Path, str], Iterator[Document]]] = {
    ".txt": _from_text,
    ".jsonl": _from_jsonl,
    ".jsonl.gz": _from_jsonl,
    ".jsonl.xz": _from_jsonl,
    ".parquet": _from_parquet,
}
