"""Documents from text files, JSONL, Parquet and datasets, in an order that a seed decides."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from homolog.corpus.whole_xz import WholeXz
from homolog.errors import InputError
from homolog.zoo import catalog

# keeps this draw apart from others with the same seed
_ORDER = int.from_bytes(b"corpus order", "little")
_DATASET = "hf:"


@dataclass(frozen=True)
class Document:
    """One text, and where it is from ("FILE", "FILE:LINE" or "DATASET[ROW]")."""

    text: str
    source: str


class Documents(Iterator[Document]):
    """Documents one after the other, without the empty ones, which are counted.

    With a seed they are all read before the first is given, in an order that it decides.
    """

    def __init__(self, name: str, documents: Iterator[Document], seed: int | None = None) -> None:
        self.name = name
        """Of the source."""

        self.n_read = 0
        """Documents read so far, empty ones among them."""

        self.n_empty = 0
        """Of those the ones that hold nothing but spaces: they are left out."""

        filled = self._filled(documents)
        self._documents = filled if seed is None else _shuffled(filled, seed)

    def __next__(self) -> Document:
        return next(self._documents)

    def _filled(self, documents: Iterator[Document]) -> Iterator[Document]:
        for document in documents:
            self.n_read += 1
            if document.text.strip():
                yield document
            else:
                self.n_empty += 1


def read_documents(
    source: Any, *, field: str = "text", split: str = "train", shuffle: bool = True, seed: int = 0
) -> Documents:
    """Documents of `source`, shuffled across the whole of it unless `shuffle` is off.

    source  "zoo:demo" or "zoo:domains"; a .txt (one document), .jsonl, .jsonl.gz, .jsonl.xz or
            .parquet file; a folder of those (with subfolders), or one that `datasets` saved;
            "hf:ID" or a `datasets.Dataset`
    field   name of the text in JSONL, Parquet and datasets
    split   of a dataset
    seed    of the order

    Empty texts are left out.  Files are read as UTF-8, with a byte order mark or without.  Raises
    `InputError`, also while documents are read, for a missing, unreadable or damaged source, which
    it names, and for a record without the field.  A damaged compressed file never passes for a
    shorter one.
    """
    name = str(source) if isinstance(source, str | Path) else "dataset"
    path = _path(source)
    dataset = _as_dataset(source, path, split)
    if path is None or dataset is not None:
        order = _order(_length(dataset, name), seed if shuffle else None)
        return Documents(name, _from_dataset(dataset, name, field, order))
    each = (_checked(_reader(file)(file, field), str(file)) for file in _files(path))
    return Documents(name, chain.from_iterable(each), seed if shuffle else None)


def _shuffled(documents: Iterator[Document], seed: int) -> Iterator[Document]:
    everything = list(documents)
    for index in _order(len(everything), seed):
        yield everything[index]


def source_files(source: Any) -> tuple[Path, ...]:
    """The files that `read_documents` reads; none for a dataset that is no folder here."""
    path = _path(source)
    if path is None:
        return ()
    return tuple(
        sorted(file for file in path.rglob("*") if file.is_file())
        if _is_saved(path)
        else _files(path)
    )


def _order(n: int, seed: int | None) -> np.ndarray:
    return np.arange(n) if seed is None else np.random.default_rng([_ORDER, seed]).permutation(n)


def _path(source: Any) -> Path | None:
    """The file or folder that `source` names, a text of the zoo being one; None for a dataset."""
    if isinstance(source, str) and source in catalog.TEXTS:
        return catalog.TEXTS[source]
    if not isinstance(source, str | Path) or str(source).startswith(_DATASET):
        return None
    try:
        path = Path(source).expanduser()
        path.stat()
    except FileNotFoundError as error:
        requirement = "there must be a file or a folder of that name"
        files = "a .txt, .jsonl or .parquet file, a folder of them"
        remedy = f'Give {files}, "zoo:demo" or "zoo:domains", or "hf:ID" for a dataset.'
        raise InputError("corpus", str(source), requirement, remedy) from error
    # too long, a character that no name has, no such user
    except (OSError, ValueError, RuntimeError) as error:
        what = "the name of a file or a folder that can be read"
        raise _damaged(str(source), what, error) from error
    return path


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]

    def refuse(error: OSError) -> None:
        raise _damaged(str(error.filename or path), "a folder that can be read", error) from error

    walk = os.walk(path, onerror=refuse)
    everything = (Path(folder, name) for folder, _, names in walk for name in names)
    files = sorted(file for file in everything if _suffix(file) in _READERS)
    if not files:
        requirement = f"the folder must hold files of a known kind ({', '.join(_READERS)})"
        raise InputError("corpus", str(path), requirement, "Give another folder, or name one file.")
    return files


def _checked(documents: Iterator[Document], place: str) -> Iterator[Document]:
    """The documents of a place, each a text that a tokenizer can read."""
    try:
        for document in documents:
            document.text.encode()  # JSON can name halves of characters, which no text has
            yield document
    except UnicodeEncodeError as error:
        raise _damaged(document.source, "a text of whole characters", error) from error
    except OSError as error:
        raise _damaged(place, "a file that can be read", error) from error


def _damaged(place: str, what: str, error: BaseException) -> InputError:
    requirement = f"it must be {what} ({_one_line(f'{type(error).__name__}: {error}')})"
    return InputError("corpus", place, requirement, "Mend it, fetch it again, or leave it out.")


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] in ([".gz"], [".xz"])
    return "".join(suffixes[-2:] if packed else suffixes[-1:])


def _reader(path: Path) -> Callable[[Path, str], Iterator[Document]]:
    reader = _READERS.get(_suffix(path))
    if reader is None:
        requirement = f"the file must be of a known kind ({', '.join(_READERS)})"
        raise InputError("corpus", str(path), requirement, "Convert it to one.")
    return reader


def _one_line(text: str) -> str:
    """What a file holds, short enough for a message and of characters that can be printed."""
    text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in " ".join(text.split()))
    return text if len(text) <= 300 else f"{text[:300]} ..."


def _from_text(path: Path, field: str) -> Iterator[Document]:
    _regular(path)
    try:
        yield Document(path.read_text(encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise _damaged(str(path), "UTF-8 text", error) from error


def _from_jsonl(path: Path, field: str) -> Iterator[Document]:
    _regular(path)
    number = 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, start=1):
                if text := line.decode("utf-8-sig" if number == 1 else "utf-8").strip():
                    yield _record(json.loads(text), field, f"{path}:{number}")
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(f"{path}:{number}", "a JSON object in UTF-8", error) from error
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise _damaged(str(path), "a whole compressed file", error) from error


def _regular(path: Path) -> None:
    """InputError for what has no end when it is read, as a pipe, or is not there."""
    if not path.is_file():
        requirement = "it must be a file, and there is none"
        raise InputError("corpus", str(path), requirement, "Mend or remove the link.")


def _open(path: Path) -> io.BufferedIOBase:
    if path.suffix.lower() == ".gz":
        if not path.stat().st_size:
            raise EOFError("it is empty")  # which gzip takes for an empty text
        return gzip.GzipFile(path)
    if path.suffix.lower() == ".xz":
        return io.BufferedReader(WholeXz(path))
    return path.open("rb")


def _record(record: Any, field: str, place: str) -> Document:
    text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        there = type(record).__name__
        if isinstance(record, dict):
            names = ", ".join(map(str, record))
            there = f"{field}: {type(text).__name__}" if field in record else names
        requirement = f"it must have a text in the field {field!r} (found: {_one_line(there)})"
        remedy = "Name the field that holds the text: `field` in [corpus]."
        raise InputError("corpus", place, requirement, remedy)
    return Document(text, place)


def _from_parquet(path: Path, field: str) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    _regular(path)
    row = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_field(field, file.schema_arrow.names, str(path))
            for batch in file.iter_batches(batch_size=1024, columns=[field]):
                for text in batch.column(0).to_pylist():
                    yield _record({field: text}, field, f"{path}[{row}]")
                    row += 1
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        raise _damaged(str(path), "Parquet", error) from error


def _as_dataset(source: Any, path: Path | None, split: str) -> Any:
    """The `datasets.Dataset` that `source` is or names; None if it is files."""
    if not isinstance(source, str | Path):
        return _split_of(source, split)
    saved = path is not None and _is_saved(path)
    if path is not None and not saved:
        return None
    try:
        import datasets
    except ImportError as error:
        requirement = "Hugging Face datasets need the package `datasets`"
        remedy = "pip install 'homolog[data]'"
        raise InputError("corpus", str(source), requirement, remedy) from error
    if saved:
        with _reading(str(path)):
            dataset = datasets.load_from_disk(str(path))
        return _split_of(dataset, split)
    try:
        return datasets.load_dataset(str(source).removeprefix(_DATASET), split=split)
    except (OSError, ValueError, IndexError) as error:
        requirement = f"the dataset must be within reach ({error})"
        remedy = "Check the id, the split and the network, or give local files."
        raise InputError("corpus", str(source), requirement, remedy) from error


def _is_saved(folder: Path) -> bool:
    """Whether `datasets` saved a dataset there."""
    return any((folder / f"{name}.json").exists() for name in ("dataset_dict", "dataset_info"))


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """One `InputError` for what `datasets` raises over damaged files, which has no common kind."""
    try:
        yield
    except Exception as error:
        raise _damaged(name, "a dataset that can be read", error) from error


def _split_of(dataset: Any, split: str) -> Any:
    if not isinstance(dataset, dict):
        return dataset
    if split not in dataset:
        requirement = f"the dataset has {', '.join(map(str, dataset))}"
        raise InputError("corpus split", split, requirement, "Name one.")
    return dataset[split]


def _length(dataset: Any, name: str) -> int:
    """Rows.  InputError for what is no dataset, or one that is only streamed."""
    if not (hasattr(dataset, "column_names") and hasattr(dataset, "__len__")):
        requirement = f"a {type(dataset).__name__} has no rows that can be drawn from"
        remedy = "Give a datasets.Dataset, or the name of a file or folder."
        raise InputError("corpus", name, requirement, remedy)
    return len(dataset)


def _from_dataset(dataset: Any, name: str, field: str, order: np.ndarray) -> Iterator[Document]:
    _check_field(field, dataset.column_names, name)
    for start in range(0, len(order), 256):  # reading rows together is much faster than one by one
        rows = order[start : start + 256]
        with _reading(name):
            texts = dataset[rows.tolist()][field]
        yield from _checked(
            (
                _record({field: text}, field, f"{name}[{row}]")
                for row, text in zip(rows, texts, strict=True)
            ),
            name,
        )


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
