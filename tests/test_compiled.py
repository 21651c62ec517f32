"""Where compiled code is kept, also for users who may write to no folder of theirs."""

from __future__ import annotations

import ast
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import homolog
from homolog.compiled import jit

SOURCE = Path(homolog.__file__).parent


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """A copy of the package and a home, in neither of which a cache can be made.

    Not even by root: a file has the name of each folder that would hold one.
    """
    copy = shutil.copytree(
        SOURCE, tmp_path / "src" / "homolog", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "src" / "kernel.py").write_text(
        "from homolog.compiled import jit\n\n\n@jit()\ndef double(x):\n    return 2 * x\n"
    )
    for folder in (copy.parent, copy, *(path for path in copy.rglob("*") if path.is_dir())):
        (folder / "__pycache__").touch()
    (tmp_path / "home").touch()
    (tmp_path / "tmp").mkdir()
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    }
    return {
        **kept,
        "PYTHONPATH": str(tmp_path / "src"),
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
    }


def run(environment: dict[str, str], code: str) -> subprocess.CompletedProcess[str]:
    code = (
        f"import homolog\nassert homolog.__file__.startswith({environment['PYTHONPATH']!r})\n{code}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done


COMPILE = "from kernel import double\nprint(double(4))\n"


def test_without_a_place_to_write_compiled_code_is_kept_in_a_temporary_folder(
    nowhere: dict[str, str],
) -> None:
    done = run(nowhere, COMPILE)
    assert done.stdout == "8\n"
    (folder,) = Path(nowhere["TMPDIR"]).glob("homolog-compiled-*")
    # one note, and no more
    assert done.stderr.count(f"it is kept in {folder}") == done.stderr.count("\n") == 1
    assert list(folder.rglob("*.nbi")) and stat.S_IMODE(folder.stat().st_mode) == 0o700
    again = run(nowhere, "from homolog.doctor import findings\nprint(findings()['numba'])\n")
    assert f"compiles; keeps what it compiled in {folder}" in again.stdout


def test_a_temporary_folder_that_others_may_write_to_is_not_used(nowhere: dict[str, str]) -> None:
    folder = Path(nowhere["TMPDIR"]) / f"homolog-compiled-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    done = run(nowhere, COMPILE)
    assert done.stdout == "8\n" and "every process compiles anew" in done.stderr
    assert not list(folder.iterdir())


def test_code_that_stands_in_no_file_is_compiled_and_not_kept() -> None:
    names: dict[str, Any] = {}
    exec(compile("def double(x): return 2 * x", "<typed>", "exec"), names)
    double = jit()(names["double"])
    assert double(4) == 8 and double.stats.cache_path is None


def test_one_decorator_compiles_everything() -> None:
    """numba's own are used nowhere else: what they cannot keep, they raise."""
    for path in SOURCE.rglob("*.py"):
        if path.name in ("compiled.py", "doctor.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "numba"
            ):
                assert node.attr not in ("jit", "njit", "vectorize", "guvectorize"), path
            if isinstance(node, ast.ImportFrom) and node.module == "numba":
                assert not {"jit", "njit", "vectorize", "guvectorize"} & {
                    name.name for name in node.names
                }, path


TRAINED = """
from hashlib import sha256
from tests.dictionaries.helpers import D_SAE, small_source
from homolog.dictionaries import TrainingConfig, train
from homolog.dictionaries.kinds import relu, topk

training = TrainingConfig(n_tokens=4000, batch=256, scale_sample=1000)
for settings in (relu.Settings(d_sae=D_SAE), topk.Settings(d_sae=D_SAE, k=5)):
    for sae in train(small_source(), settings, training, model="m")["sae"]:
        print(*(sha256(w.numpy().tobytes()).hexdigest() for w in (sae.W_enc, sae.W_dec)))
"""


@pytest.mark.slow
def test_code_just_compiled_gives_the_bytes_of_code_read_from_a_file(tmp_path: Path) -> None:
    root = str(SOURCE.parents[1])
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": root}
    found = [
        subprocess.run(
            [sys.executable, "-c", TRAINED],
            capture_output=True,
            text=True,
            env=environment,
            cwd=root,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert any(tmp_path.rglob("*.nbc")) and found[0].count("\n") == 4
    assert found[0] == found[1]
