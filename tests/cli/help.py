"""Help of a command, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def help_without(heavy: set[str], *words: str) -> str:
    """What a command says of itself; an AssertionError where that imports one of these modules."""
    code = (
        "import sys\nfrom homolog.cli import app\n"
        "try:\n    app([*sys.argv[1:], '--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        f"heavy = {heavy} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    command = [sys.executable, "-c", code, *words]
    wide = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=wide)
    assert done.returncode == 0, done.stderr
    return done.stdout
