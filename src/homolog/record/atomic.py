"""Atomic writes and checksums: a file appears under its final name only when it is complete.

Write to a hidden temporary file in the same folder, fsync it, rename it over the final name (atomic
within a POSIX file system), fsync the folder.  A reader, or a process killed at any instant, finds
the old file, no file or the whole new one.  What a killed process leaves behind carries
`PARTIAL_PREFIX`, for `remove_partial_files` to sweep.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from homolog.errors import InputError

PARTIAL_PREFIX = ".partial-"

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
_NOT_A_FOLDER = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR)


def as_input_error(error: BaseException, path: Path) -> InputError | None:
    """The `InputError` for a failed write that the user can mend (space, permission, a file in the
    way).

    Libraries in other languages (safetensors, polars, arrow) lose the errno, so the text is read as
    well. Returns None for any other error.
    """
    number = error.errno if isinstance(error, OSError) else None
    text = str(error).lower()
    if number in _NO_SPACE or "no space left on device" in text or "disk quota exceeded" in text:
        return InputError(
            "output path",
            str(path),
            "no space is left on that device",
            "Free some space and give the same --out again: what is complete is kept.",
        )
    if number in _NO_PERMISSION or "permission denied" in text or "read-only file system" in text:
        return InputError(
            "output path",
            str(path),
            "this user has no permission to write there",
            "Give an --out that you may write to, or change the permissions of the folder.",
        )
    if number in _NOT_A_FOLDER:
        return InputError(
            "output path",
            str(path),
            "a part of it is not a folder, or the place of the file is taken",
            "Give another --out, or move what is in the way.",
        )
    if number == errno.ENOENT and Path(path).parts[:2] in (("/", "proc"), ("/", "sys")):
        return InputError(
            "output path", str(path), "nothing can be created there", "Give another --out."
        )
    return None


@contextlib.contextmanager
def user_errors(path: Path | str) -> Iterator[None]:
    """Turn an error that the user can mend into an `InputError` about `path`; let all others
    through.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        mended = as_input_error(error, Path(path))
        if mended is None:
            raise
        raise mended from error


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success it becomes `path`, on any error it is
    removed.

    The temporary name ends in the final name, so that writers that look at the suffix work.
    Missing folders are made.  Raises `InputError` when space or permission is missing, and
    `FileNotFoundError` when the body wrote nothing.
    """
    path = Path(path)
    partial = path.with_name(f"{PARTIAL_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    with user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            _sync(partial)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def write_bytes(path: Path | str, data: bytes) -> Path:
    """Write `data` to `path` atomically; returns the path."""
    with atomic_path(path) as partial:
        partial.write_bytes(data)
    return Path(path)


def write_text(path: Path | str, text: str) -> Path:
    """Write `text` (UTF-8) to `path` atomically; returns the path."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, obj: object) -> Path:
    """Write `obj` as indented JSON; NaN is refused, because JSON has none (write null).  Returns
    the path.
    """
    return write_text(path, json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """The JSON value in a file.  OSError where it cannot be read, ValueError where it holds none,
    whatever is wrong.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def sha256_file(path: Path | str) -> str:
    """Hexadecimal SHA-256 of the bytes of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(*parts: bytes | str) -> str:
    """Hexadecimal SHA-256 of the parts, each preceded by its length: ("ab", "c") and ("a", "bc")
    differ.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8") if isinstance(part, str) else bytes(part)
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def remove_partial_files(folder: Path | str) -> list[Path]:
    """Remove what killed processes left half-written anywhere under `folder`; returns the removed
    paths.

    Files of processes that still run are left alone.
    """
    removed = []
    for partial in sorted(Path(folder).rglob(f"{PARTIAL_PREFIX}*")):
        owner = partial.name.removeprefix(PARTIAL_PREFIX).split("-")[0]
        if owner.isdigit() and int(owner) != os.getpid() and _is_running(int(owner)):
            continue
        with contextlib.suppress(OSError):
            partial.unlink()
            removed.append(partial)
    return removed


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
