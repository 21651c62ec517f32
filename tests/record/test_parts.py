"""Parts: same arrays same bytes, other keys and damage give None, and damage anywhere is named and
removed.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from homolog.record.parts import read_part, write_part

ARRAYS = {
    "value": np.arange(6, dtype=np.float32).reshape(2, 3),
    "index": np.array([7, -1], np.int64),
    "flag": np.array([True, False]),
    "empty": np.empty((0, 4), np.float32),
    "scalar": np.array(2.5),
}


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return write_part(tmp_path / "made" / "part.safetensors", ARRAYS, 'all "it" depends on')


def test_what_is_written_is_read(part: Path) -> None:
    found = read_part(part, 'all "it" depends on')
    assert found is not None and found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_a_part_is_a_safetensors_file(part: Path) -> None:
    np.testing.assert_array_equal(safetensors.numpy.load_file(part)["value"], ARRAYS["value"])


def test_same_arrays_same_bytes(part: Path, tmp_path: Path) -> None:
    strided = {name: ARRAYS[name] for name in reversed(ARRAYS)} | {
        "value": np.asfortranarray(ARRAYS["value"])
    }
    again = write_part(tmp_path / "again", strided, 'all "it" depends on')
    assert again.read_bytes() == part.read_bytes()
    other = write_part(tmp_path / "other", strided, "another key")
    assert other.read_bytes() != part.read_bytes()


def test_missing_or_of_another_key_is_none_and_no_damage(
    part: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_part(part.with_name("missing"), "key") is None
    assert read_part(part, "another key") is None
    assert read_part(part, "") is None
    assert part.exists() and not caplog.records


def test_a_changed_byte_anywhere_is_damage(part: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = part.read_bytes()
    caplog.set_level(logging.WARNING, "homolog")
    for place in range(len(whole)):
        for change in (0x01, 0x20, 0xFF):
            damaged = bytearray(whole)
            damaged[place] ^= change
            part.write_bytes(damaged)
            assert read_part(part, 'all "it" depends on') is None, place
            assert not part.exists(), place
    assert len(caplog.records) == 3 * len(whole)
    assert str(part) in caplog.records[0].getMessage() and caplog.records[0].name == "homolog"


def test_a_file_cut_short_or_grown_is_damage(part: Path) -> None:
    whole = part.read_bytes()
    for data in (*(whole[:n] for n in range(len(whole))), whole + b"\0", b"not a part at all"):
        part.write_bytes(data)
        assert read_part(part, 'all "it" depends on') is None
        assert not part.exists()


def test_damage_to_the_key_is_damage_whatever_key_is_asked_for(part: Path) -> None:
    data = part.read_bytes()
    assert data.count(b"depends") == 1
    part.write_bytes(data.replace(b"depends", b"repends"))
    assert read_part(part, 'all "it" repends on') is None
    assert not part.exists()
