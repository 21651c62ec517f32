"""A file is there completely or not at all, whatever happens to the writer."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from homolog.errors import InputError
from homolog.record import atomic

WRITER = """
import sys
from homolog.record.atomic import atomic_path
with atomic_path(sys.argv[1]) as partial, open(partial, "wb") as file:
    for block in range(1_000_000):
        file.write(b"x" * 4096)
        file.flush()
        if block == 3:
            print("writing", flush=True)
"""


def test_the_file_has_the_bytes_and_no_partial_file_stays(tmp_path: Path) -> None:
    path = atomic.write_text(tmp_path / "new" / "a.txt", "first")
    atomic.write_text(path, "second")
    assert path.read_text() == "second"
    assert [found.name for found in path.parent.iterdir()] == ["a.txt"]


def test_an_error_in_the_body_keeps_the_old_file(tmp_path: Path) -> None:
    path = atomic.write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError, match="stop"), atomic.atomic_path(path) as partial:
        partial.write_text("half")
        raise RuntimeError("stop")
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


def test_the_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic.atomic_path(tmp_path / "a.parquet") as partial:
        assert partial.suffix == ".parquet"
        assert partial.parent == tmp_path
        partial.write_bytes(b"")


def test_a_body_that_writes_nothing_is_a_defect(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic.atomic_path(tmp_path / "a.txt"):
        pass


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_killed_writer_leaves_the_old_file_or_none(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "a.bin"
    if old is not None:
        path.write_bytes(old)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"writing\n"
    (partial,) = tmp_path.glob(f"{atomic.PARTIAL_PREFIX}*")
    assert atomic.remove_partial_files(tmp_path) == [], "a running writer's file was taken away"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert (path.read_bytes() if path.exists() else None) == old
    assert atomic.remove_partial_files(tmp_path) == [partial]
    assert sorted(tmp_path.iterdir()) == ([path] if old is not None else [])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"no space is left .* Free some space") as raised:
        atomic.write_text(tmp_path / "a.txt", "text")
    assert raised.value.value == str(tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


def test_no_space_told_by_a_library_without_an_error_number(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="no space is left"),
        atomic.atomic_path(tmp_path / "a.bin"),
    ):
        raise RuntimeError("I/O error: No space left on device (os error 28)")


def test_a_file_size_limit_counts_as_no_space(tmp_path: Path) -> None:
    """A real failing write: the kernel refuses what goes beyond RLIMIT_FSIZE."""
    code = (
        "import resource, signal, sys\n"
        "from homolog.errors import InputError\n"
        "from homolog.record.atomic import write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    write_bytes(sys.argv[1], b'x' * 100_000)\n"
        "except InputError as error:\n    print(error.requirement)\n"
    )
    command = [sys.executable, "-B", "-c", code, str(tmp_path / "a.bin")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "no space is left on that device\n"
    assert list(tmp_path.iterdir()) == []


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(target))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match="no permission to write there"):
        atomic.write_text(tmp_path / "a.txt", "text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_place_where_nobody_may_create_files() -> None:
    with pytest.raises(InputError, match="Give another --out"):
        atomic.write_text("/proc/homolog/run.json", "text")


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(InputError, match="not a folder"):
        atomic.write_text(tmp_path / "a" / "b.txt", "text")
    assert (tmp_path / "a").read_text() == "a file"


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "a.json", {"r": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_checksums(tmp_path: Path) -> None:
    path = atomic.write_bytes(tmp_path / "a", b"abc")
    # FIPS 180-2, appendix B.1
    assert (
        atomic.sha256_file(path)
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert atomic.sha256_bytes("ab", "c") != atomic.sha256_bytes("a", "bc")
    expected = hashlib.sha256((3).to_bytes(8, "little") + b"abc").hexdigest()
    assert atomic.sha256_bytes(b"abc") == atomic.sha256_bytes("abc") == expected


def test_a_partial_file_of_this_process_is_swept_but_not_one_in_use_elsewhere(
    tmp_path: Path,
) -> None:
    mine = tmp_path / f"{atomic.PARTIAL_PREFIX}{os.getpid()}-0-a"
    others = tmp_path / f"{atomic.PARTIAL_PREFIX}1-0-a"
    mine.touch()
    others.touch()
    assert atomic.remove_partial_files(tmp_path) == [mine]
    assert others.exists()
