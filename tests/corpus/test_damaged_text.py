"""Damaged text gives its documents or one `InputError` that names the file.

It never gives part of a compressed file.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from tests.damage import number_of

from homolog.corpus import read_documents
from homolog.errors import InputError

TEXTS = [
    "first text",
    "zweiter Text, länger",
    "自 third",
    "",
    "a\nb",
    *(f"text {i} " * (i % 7) for i in range(200)),
]
LINES = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS).encode()
HALF = len(LINES) // 2


def parquet(folder: Path) -> bytes:
    pl.DataFrame({"text": TEXTS}).write_parquet(folder / "whole.parquet")
    contents = (folder / "whole.parquet").read_bytes()
    (folder / "whole.parquet").unlink()
    return contents


WHOLE: dict[str, Callable[[Path], bytes]] = {
    "a.txt": lambda folder: "\n".join(TEXTS).encode(),
    "a.jsonl": lambda folder: LINES,
    "a.jsonl.gz": lambda folder: gzip.compress(LINES, mtime=0),
    "b.jsonl.gz": lambda folder: (
        gzip.compress(LINES[:HALF], mtime=0) + gzip.compress(LINES[HALF:], mtime=0)
    ),
    "a.jsonl.xz": lambda folder: lzma.compress(LINES),
    "b.jsonl.xz": lambda folder: (
        lzma.compress(LINES[:HALF]) + b"\0" * 4 + lzma.compress(LINES[HALF:])
    ),
    "a.parquet": parquet,
}


def truncated(contents: bytes, rng: random.Random) -> bytes:
    return contents[: rng.randrange(len(contents))]


def flipped(contents: bytes, rng: random.Random) -> bytes:
    changed = bytearray(contents)
    for _ in range(rng.choice([1, 1, 3, 30])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def put_in(contents: bytes, rng: random.Random) -> bytes:
    """Bytes that are no text, zeros, a byte order mark or a long run somewhere."""
    what = rng.choice(
        [
            b"\xff\xfe",
            b"\x00" * rng.randrange(1, 9),
            b"\xef\xbb\xbf",
            b"\xe8\x87",
            b"x" * 200_000,
            b"\r",
        ]
    )
    at = rng.choice([0, rng.randrange(len(contents)), len(contents)])
    return contents[:at] + what + contents[at:]


def zeroed(contents: bytes, rng: random.Random) -> bytes:
    """What a disk leaves of a block that was not written."""
    at, n = rng.randrange(len(contents)), rng.randrange(1, 600)
    return contents[:at] + b"\0" * min(n, len(contents) - at) + contents[at + n :]


def cut_out(contents: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(contents))
    return contents[:at] + contents[at + rng.randrange(1, 200) :]


def other_lines(contents: bytes, rng: random.Random) -> bytes:
    """A record that is not one; compressed files get it as what they hold."""
    record = rng.choice(
        [
            '{"text": null}',
            '{"text": 3}',
            '{"text": ["a"]}',
            '{"txt": "a"}',
            "[1]",
            "null",
            '"text"',
            '{"text": "a"',
            '{"text": "\\ud800"}',
            '{"text": "\\ude00 b"}',
            "[" * 100_000,
            '{"text": "a", "n": ' + "9" * 5000 + "}",
            '{"text": "a"} {"text": "b"}',
            '{"text": "\x00"}',
            "\ufeff{}",
            '{"text": NaN}',
            '{"\\ud800\\u001b": 1}',
        ]
    )
    lines = LINES.split(b"\n")
    lines.insert(rng.randrange(len(lines)), record.encode())
    return b"\n".join(lines)


DAMAGES = (truncated, flipped, put_in, zeroed, cut_out, other_lines)


def damage_and_read(folder: Path, seed: int, contents: dict[str, bytes]) -> str:
    """Damage a file, read it; returns what came of it: documents, or an error that names it."""
    rng = random.Random(seed)
    name, damage = rng.choice(list(WHOLE)), rng.choice(DAMAGES)
    changed = damage(contents[name], rng)
    if damage is other_lines and ".jsonl." in name:
        changed = (
            gzip.compress(changed, mtime=0) if name.endswith(".gz") else lzma.compress(changed)
        )
    path = folder / name
    path.write_bytes(changed)
    source = rng.choice([path, folder])
    try:
        texts = [document.text for document in read_documents(source, shuffle=rng.random() < 0.5)]
    except InputError as error:
        message = str(error)
        assert str(path) in str(error.value) and message.isprintable() and len(message) < 1000, (
            message
        )
        return "refused"
    finally:
        path.unlink()
    for text in texts:
        text.encode()
    if ".jsonl." in name and damage is not other_lines:
        assert sorted(texts) == sorted(text for text in TEXTS if text.strip()), (
            seed,
            name,
            damage.__name__,
        )
    return "read"


def read_all(folder: Path, seeds: range) -> None:
    contents = {name: make(folder) for name, make in WHOLE.items()}
    came_of = [damage_and_read(folder, seed, contents) for seed in seeds]
    assert min(came_of.count("refused"), came_of.count("read")) > len(seeds) // 10  # both happened


@pytest.mark.damage
def test_damaged_text_is_read_or_refused(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    read_all(tmp_path, range(number_of(pytestconfig)))


@pytest.mark.parametrize("name", [name for name in WHOLE if ".jsonl." in name])
def test_no_part_of_a_compressed_file_passes_for_the_whole(tmp_path: Path, name: str) -> None:
    """Cut anywhere, every part of its structure damaged, and either of two streams."""
    whole, path = WHOLE[name](tmp_path), tmp_path / name
    # about where a second stream begins
    border = len(whole) - len(WHOLE["a" + name[1:]](tmp_path)) // 2
    cuts = {0, 1, 2, 5, 9, 20, border, *range(0, len(whole), 97)}
    cuts |= {*range(len(whole) - 40, len(whole))}
    gzipped, xzipped = len(gzip.compress(LINES[:HALF], mtime=0)), len(lzma.compress(LINES[:HALF]))
    ends = {gzipped, xzipped, xzipped + 4}  # cut between streams it is a whole file
    for cut in sorted(cuts - ends if name[0] == "b" else cuts):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="whole compressed file"):
            list(read_documents(path))
    if name[0] == "b":
        second = max(end for end in ends if whole[end : end + 3] in (b"\x1f\x8b\x08", b"\xfd7z"))
        for at in (second, second + 1, second + 2, len(whole) - 1):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
            with pytest.raises(InputError, match="whole compressed file"):
                list(read_documents(path))


def one(folder: Path, name: str, contents: bytes) -> list[str]:
    (folder / name).write_bytes(contents)
    return [document.text for document in read_documents(folder / name, shuffle=False)]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert one(tmp_path, "a.txt", b"\xef\xbb\xbfabc") == ["abc"]
    assert one(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"text": "abc"}\r\n{"text": "d"}') == ["abc", "d"]


def test_the_line_that_is_not_utf8_is_the_one_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a JSON object in UTF-8") as raised:
        one(
            tmp_path,
            "a.jsonl",
            b'{"text": "a"}\n' * 4000 + b'{"text": "\xff"}\n' + b'{"text": "a"}\n' * 4000,
        )
    assert raised.value.value == f"{tmp_path / 'a.jsonl'}:4001"


def test_halves_of_characters_are_no_text(tmp_path: Path) -> None:
    assert one(tmp_path, "a.jsonl", rb'{"text": "\ud83d\ude42"}') == ["🙂"]
    with pytest.raises(InputError, match="whole characters") as raised:
        one(tmp_path, "a.jsonl", b'{"text": "b"}\n' + rb'{"text": "\ud83d"}')
    assert raised.value.value == f"{tmp_path / 'a.jsonl'}:2"


def test_what_was_found_in_place_of_the_text_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found: text: NoneType"):
        one(tmp_path, "a.jsonl", b'{"text": null}')
    pl.DataFrame({"text": ["a", None]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet\[1\]'.*found: text: NoneType"):
        list(read_documents(tmp_path / "a.parquet"))
    pl.DataFrame({"text": [[1]]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="found: text: list"):
        list(read_documents(tmp_path / "a.parquet"))


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(
        InputError, match=r"a\.jsonl', but the folder must hold files of a known kind"
    ):
        read_documents(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl" / "b.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(InputError, match=r"b\.txt', but it must be a file, and there is none"):
        list(read_documents(tmp_path))
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match="must be a file, and there is none"):
        list(read_documents(tmp_path / "pipe.jsonl"))  # which would wait for ever
    for source in ("x" * 5000, "a\0b", "~nobody-of-that-name/a.txt"):
        with pytest.raises(InputError, match="a file or a folder"):
            read_documents(source)
    for source in (3, None, ["a"]):
        with pytest.raises(InputError, match="dataset"):
            list(read_documents(source))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    for name, message in (("deep", "folder that can be read"), ("b.txt", "file that can be read")):
        (tmp_path / name).chmod(0)
        with pytest.raises(InputError, match=message) as raised:
            list(read_documents(tmp_path))
        (tmp_path / name).chmod(0o755)
        assert raised.value.value == str(tmp_path / name)


def test_damaged_datasets_are_named(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(tmp_path / "saved"))
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    (state := tmp_path / "saved" / "state.json").write_bytes(state.read_bytes()[:20])
    with pytest.raises(InputError, match="saved', but it must be a dataset that can be read"):
        list(read_documents(tmp_path / "saved"))
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(tmp_path / "other"))
    (arrow,) = (tmp_path / "other").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:200])
    with pytest.raises(InputError, match="other', but it must be a dataset that can be read"):
        list(read_documents(tmp_path / "other"))
    iterable = datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()
    with pytest.raises(InputError, match="IterableDataset has no rows that can be drawn from"):
        list(read_documents(iterable))
