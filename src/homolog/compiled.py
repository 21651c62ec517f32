"""Functions compiled by numba: one decorator, and one place where their machine code is kept.

numba keeps it in NUMBA_CACHE_DIR, where that is set, else beside the source, else in the user's
cache folder.  A user who may write to none of these gets a folder of their own among the system's
temporary files; where not even that can be made, every process compiles anew.
"""

from __future__ import annotations

import functools
import logging
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

logger = logging.getLogger("homolog")


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit(**options)` whose machine code is kept for the next process.

    What it calls becomes part of it.  Else code that was compiled just now would call the copy of
    a helper that was optimised by itself, and code read from a file the copy that was optimised
    with its caller; with fast mathematics they round differently, and a run would depend on
    whether it was the first on its machine.

    `stats.cache_path` of the compiled function says where, if anywhere: code that stands in no
    file, as what is typed at a prompt, is not kept.
    """

    njit = functools.partial(numba.njit, forceinline=True, **options)

    def decorate(function: Callable[..., Any]) -> Any:
        global _keep
        if _keep and Path(function.__code__.co_filename).is_file():
            try:
                return njit(cache=True)(function)
            except RuntimeError as error:
                if "cannot cache function" not in str(error):
                    raise
            if _keep := _use_temporary_folder():
                return njit(cache=True)(function)
        return njit()(function)

    return decorate


_keep = True


def _use_temporary_folder() -> bool:
    """Let numba keep code there, in this process and those it starts; False where it cannot.

    Says which, once.
    """
    folder = _temporary_folder()
    where = f"it is kept in {folder}" if folder else "every process compiles anew"
    logger.warning(
        "Compiled code can be kept neither beside the package nor in the user's cache folder: %s. "
        "NUMBA_CACHE_DIR names another folder.",
        where,
    )
    if folder is None:
        return False
    numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = str(folder)  # type: ignore[attr-defined]
    return True


def _temporary_folder() -> Path | None:
    """This user's own folder, which nobody else may write to: machine code is run from it."""
    try:
        folder = Path(tempfile.gettempdir()) / f"homolog-compiled-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        is_now = folder.lstat()
    except OSError:
        return None
    closed = stat.S_ISDIR(is_now.st_mode) and not is_now.st_mode & 0o022
    own = closed and is_now.st_uid == os.getuid()
    return folder if own and os.access(folder, os.W_OK) else None
