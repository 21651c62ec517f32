"""`python -m benchmarks case-study [OUT]`: models and text from packages, then the study.

OUT is runs/case-study by default; a run that was stopped goes on with the same command.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.case_study import models, text

RECIPE = Path(__file__).with_name("recipe.toml")


def main(out: str = "runs/case-study") -> None:
    """Make what is missing.  The recipe names models and text by their places in OUT."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    text.make(folder)
    models.make(folder)
    command = [sys.executable, "-m", "homolog", "run", str(RECIPE), "--out", "run"]
    subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
