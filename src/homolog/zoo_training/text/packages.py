"""Packages of Debian, the Python registry and npm, downloaded and unpacked, not installed.

A package is named as `debian:manpages`, `pypi:networkx==3.3` or `npm:d3@7.9.0`.  Debian serves one
version of a package at a time; the others are pinned.  `apt-get`, `npm` and pip must be at hand,
configured for their registries.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from homolog.errors import InputError


def unpacked(package: str, folder: Path) -> Path:
    """FOLDER/<registry-name>, holding the package's files as it would install them.

    What is there is not fetched again; a download that was cut off leaves nothing there.  Errors:
    InputError where the registry does not give the package.
    """
    made = folder / package.replace("/", "_").replace(":", "-")
    if made.is_dir():
        return made
    registry, _, name = package.partition(":")
    partial = made.with_name(made.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "files").mkdir(parents=True)
    try:
        _FETCH[registry](name, partial)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        said = getattr(error, "stderr", None) or str(error)
        remedy = f"{registry} said: {said.strip()[-300:]}"
        raise InputError("package", package, "its registry must give it", remedy) from error
    (partial / "files").rename(made)
    shutil.rmtree(partial)
    return made


def version(package: str, folder: Path) -> str:
    """What was fetched, as `manpages 6.03-2`: Debian's version is read from what was unpacked."""
    registry, _, name = package.partition(":")
    if registry != "debian":
        return name
    return (unpacked(package, folder) / "VERSION").read_text(encoding="utf-8").strip()


def _debian(name: str, into: Path) -> None:
    _command(["apt-get", "download", name], into)
    archive = next(into.glob("*.deb"))
    _command(["dpkg", "-x", archive.name, "files"], into)
    (into / "files" / "VERSION").write_text(
        _command(["dpkg-deb", "--show", archive.name], into).replace("\t", " "), encoding="utf-8"
    )


def _pypi(name: str, into: Path) -> None:
    _command([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", name], into)
    with zipfile.ZipFile(next(into.glob("*.whl"))) as archive:
        archive.extractall(into / "files")


def _npm(name: str, into: Path) -> None:
    _command(["npm", "pack", "--silent", name], into)
    with tarfile.open(next(into.glob("*.tgz"))) as archive:
        archive.extractall(into / "files", filter="data")


def _command(command: list[str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout


_FETCH: dict[str, Callable[[str, Path], None]] = {"debian": _debian, "pypi": _pypi, "npm": _npm}
