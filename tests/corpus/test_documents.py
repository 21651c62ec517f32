"""Every kind of source gives the same documents; a bad one is named down to its line."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from homolog.corpus import Document, read_documents
from homolog.errors import InputError

TEXTS = ["first text", "second text, longer", "third", "Grüße"]
LINES = "".join(json.dumps({"text": text, "other": 1}) + "\n" for text in TEXTS)


def texts(source: object, **options: object) -> list[str]:
    return [document.text for document in read_documents(source, shuffle=False, **options)]  # type: ignore[arg-type]


def plain(folder: Path) -> Path:
    (folder / "a.jsonl").write_text(LINES + "\n")
    return folder / "a.jsonl"


def gzipped(folder: Path) -> Path:
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    return folder / "a.jsonl.gz"


def xz(folder: Path) -> Path:
    (folder / "a.jsonl.xz").write_bytes(lzma.compress(LINES.encode()))
    return folder / "a.jsonl.xz"


def parquet(folder: Path) -> Path:
    pl.DataFrame({"text": TEXTS, "other": [1, 2, 3, 4]}).write_parquet(folder / "a.parquet")
    return folder / "a.parquet"


def text_files(folder: Path) -> Path:
    for index, text in enumerate(TEXTS):
        (folder / f"{index}.txt").write_text(text, encoding="utf-8")
    (folder / "notes.md").write_text("not a text file")
    return folder


@pytest.mark.parametrize("write", [plain, gzipped, xz, parquet, text_files])
def test_every_kind_of_source_gives_the_same_documents(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    source = write(tmp_path)
    assert texts(source) == TEXTS
    assert texts(str(source)) == TEXTS


def test_a_folder_mixes_kinds_and_looks_in_subfolders(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    plain(tmp_path)
    parquet(tmp_path / "deep")
    assert texts(tmp_path) == TEXTS + TEXTS


def test_sources_say_where_a_document_is_from(tmp_path: Path) -> None:
    path = plain(tmp_path)
    documents = list(read_documents(path, shuffle=False))
    assert documents[2] == Document("third", f"{path}:3")
    assert list(read_documents(parquet(tmp_path), shuffle=False))[2].source.endswith("a.parquet[2]")


def test_empty_texts_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": ""}\n{"text": " \\n"}\n{"text": "x"}\n')
    assert texts(path) == ["x"]


def test_the_order_is_random_and_decided_by_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": str(index)}) + "\n" for index in range(100)))
    in_order = [str(index) for index in range(100)]
    drawn = {
        seed: [document.text for document in read_documents(path, seed=seed)] for seed in (0, 1)
    }
    assert drawn[0] == [document.text for document in read_documents(path)]
    assert drawn[0] != drawn[1]
    assert drawn[0] != in_order
    assert sorted(drawn[0], key=int) == in_order


def test_another_field(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"content": "x"}\n')
    assert texts(path, field="content") == ["x"]
    with pytest.raises(InputError, match=r"'text' \(found: content\)") as raised:
        texts(path)
    assert raised.value.value == f"{path}:1"
    pl.DataFrame({"content": ["x"]}).write_parquet(tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", field="content") == ["x"]
    with pytest.raises(InputError, match="found: content"):
        texts(tmp_path / "a.parquet")


def test_the_text_that_ships_is_in_reach() -> None:
    document = next(iter(read_documents("zoo:demo", shuffle=False)))
    assert len(document.text) > 100


def test_hugging_face_datasets_saved_and_in_memory(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"text": [*TEXTS, ""]})
    assert texts(dataset) == TEXTS
    dataset.save_to_disk(str(tmp_path / "saved"))
    assert texts(tmp_path / "saved") == TEXTS
    both = datasets.DatasetDict({"train": dataset, "test": dataset.select([0])})
    both.save_to_disk(str(tmp_path / "both"))
    assert texts(tmp_path / "both", split="test") == TEXTS[:1]
    assert sorted(document.text for document in read_documents(tmp_path / "both")) == sorted(TEXTS)
    with pytest.raises(InputError, match="the dataset has train, test"):
        texts(tmp_path / "both", split="validation")
    with pytest.raises(InputError, match="found: text"):
        texts(dataset, field="content")


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": ', r"a\.jsonl:2', .*JSON object in UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', r"a\.jsonl:2', .*found: list"),
        ("a.jsonl", b'{"text": 3}\n', r"a\.jsonl:1', .*must have a text"),
        ("a.jsonl", b'{"text": "\xff"}\n', "UTF-8"),
        ("a.jsonl.gz", b"not gzip", "whole compressed file"),
        ("a.jsonl.gz", gzip.compress(LINES.encode())[:-12], "whole compressed file"),
        ("a.jsonl.xz", lzma.compress(LINES.encode())[:-12], "whole compressed file"),
        ("a.parquet", b"PAR1 not parquet", "must be Parquet"),
        ("a.txt", b"\xff\xfe", "must be UTF-8 text"),
        ("a.docx", b"", r"known kind \(\.txt, \.jsonl"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_unusable_files_are_named(tmp_path: Path, name: str, contents: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(contents)
    with pytest.raises(InputError, match=message) as raised:
        texts(path)
    assert str(path) in str(raised.value.value)


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a file or a folder of that name"):
        texts(tmp_path / "nowhere")
    with pytest.raises(InputError, match="files of a known kind"):
        texts(tmp_path)
