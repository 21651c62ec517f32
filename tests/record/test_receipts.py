"""Receipts: the value comes back only while the receipt and every file are as they were written."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from homolog.record.receipts import read_receipt, write_receipt

VALUE = [{"layer": 3, "explained_variance": 0.1 + 0.2, "loss": None, "reason": "é"}]


@pytest.fixture
def receipt(tmp_path: Path) -> Path:
    files = [tmp_path / "saes" / name for name in ("a", "b")]
    files[0].parent.mkdir()
    for file in files:
        file.write_text(f"contents of {file.name}")
    write_receipt(tmp_path / "cache" / "task.json", VALUE, files, "key")
    return tmp_path / "cache" / "task.json"


def test_the_value_comes_back_to_the_last_bit(
    receipt: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_receipt(receipt, "key") == VALUE
    assert not caplog.records


def test_no_receipt_and_one_of_another_key_are_none_and_no_damage(
    receipt: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_receipt(receipt.with_name("other.json"), "key") is None
    assert read_receipt(receipt, "another key") is None
    assert not caplog.records


def test_a_folder_that_was_moved_keeps_its_receipts(receipt: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").rename(tmp_path / "moved")
    assert read_receipt(tmp_path / "moved" / "task.json", "key") == VALUE
    (tmp_path / "saes").rename(tmp_path / "away")
    assert read_receipt(tmp_path / "moved" / "task.json", "key") is None


def test_a_changed_or_missing_file_is_named(
    receipt: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "saes" / "b"
    for damage in (lambda: file.write_text("contents of c"), file.unlink):
        damage()
        with caplog.at_level(logging.WARNING, "homolog"):
            assert read_receipt(receipt, "key") is None
        assert caplog.messages[-1] == f"{file} is damaged or missing: it is made again"
    assert len(caplog.records) == 2


def test_every_flipped_bit_of_a_receipt_is_found(
    receipt: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = receipt.read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        receipt.write_bytes(data)
        assert read_receipt(receipt, "key") is None, bit
    assert len(caplog.records) == 8 * len(whole) and str(receipt) in caplog.messages[0]
