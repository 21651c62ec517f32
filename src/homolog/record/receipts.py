"""Receipts: what a finished task returned and the checksums of the files it wrote, so that it need
not run again.

A receipt is one JSON file that holds its own SHA-256 too.  `read_receipt` gives back the value or
None, and None always means: run the task again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from homolog.record.atomic import read_json, sha256_bytes, sha256_file, write_json

logger = logging.getLogger("homolog")


def write_receipt(path: Path, value: Any, files: Iterable[Path], key: str) -> None:
    """Write that the task identified by `key` returned `value` (JSON, no NaN) and wrote `files`,
    which lie there now.

    Raises InputError when space or permission is missing.
    """
    written = {os.path.relpath(file, path.parent): sha256_file(file) for file in files}
    contents = json.dumps({"key": key, "value": value, "files": written}, allow_nan=False)
    write_json(path, {"sha256": sha256_bytes(contents), "contents": contents})


def read_receipt(path: Path, key: str) -> Any | None:
    """The value; None when there is no receipt, or one of another key, or it or one of its files is
    not as written.

    What is damaged or missing is named in the log.
    """
    try:
        receipt = read_json(path)
        contents = receipt["contents"]
        if sha256_bytes(contents) != receipt["sha256"]:
            raise ValueError("its SHA-256 is not the recorded one")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s is damaged (%s): its task runs again", path, error)
        return None
    receipt = json.loads(contents)
    if receipt["key"] != key:
        return None
    for name, expected in receipt["files"].items():
        file = path.parent / name
        if not file.is_file() or sha256_file(file) != expected:
            logger.warning(
                "%s is damaged or missing: it is made again", Path(os.path.normpath(file))
            )
            return None
    return receipt["value"]
