"""Annotated shapes, dtypes and types are checked while the tests run (jaxtyping with beartype).

Modules that compile their functions (numba, by `jit` too, and Triton) are left out: the checks
would be compiled along.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch

COMPILERS = {"numba", "triton"}


def _source_folder() -> Path:
    spec = importlib.util.find_spec("homolog")
    assert spec is not None and spec.submodule_search_locations, (
        "homolog is not installed: run make test"
    )
    return Path(next(iter(spec.submodule_search_locations)))


def _compiles(source: str) -> bool:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # whoever imports the module reports it
        return True
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and COMPILERS & {
            name.name.split(".")[0] for name in node.names
        }:
            return True
        if isinstance(node, ast.ImportFrom) and "jit" in {name.name for name in node.names}:
            return True
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] in COMPILERS
        ):
            return True
    return False


def checked_modules(folder: Path) -> list[str]:
    """Dotted names of the modules under `folder` (the package `homolog`) whose annotations are
    checked.
    """
    modules = []
    for path in sorted(folder.rglob("*.py")):
        if path.name != "__init__.py" and not _compiles(path.read_text(encoding="utf-8")):
            modules.append(".".join(("homolog", *path.relative_to(folder).with_suffix("").parts)))
    return modules


jaxtyping.install_import_hook(checked_modules(_source_folder()), "typecheck.checked")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors on one thread: several spend their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many random damages of a kind are tried; `make damage` tries a thousand."""
    parser.addoption("--damages", type=int, default=100, help="random damages of each kind of file")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole studies first: begun last, a long file would run on when all others are done."""
    items.sort(key=lambda item: "pipeline" not in item.path.parts)
