"""Imports go one way: a package imports only from its own line of the list or an earlier one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "homolog"

LAYERS: list[set[str]] = [
    {"errors", "axes", "compiled", "threads", "progress", "reference", "record", "zoo"},
    {"models"},
    {"corpus"},
    {"dictionaries"},
    {"features"},
    {"matching"},
    {"circuits"},
    {"charts"},
    {"analyses"},
    {"report"},
    {"engine"},
    {"pipeline"},
    {"zoo_training"},
    {"cli", "doctor", "serve", "terminal", "__main__"},
]
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def dotted(path: Path) -> str:
    """Name of a module below the package: "models.load"; a package's __init__ has the package's
    name.
    """
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(module: str) -> int:
    """Line of the longest listed name that `module` is or lies under."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        for line, names in enumerate(LAYERS):
            if ".".join(parts[:end]) in names:
                return line
    raise AssertionError(
        f"homolog.{module} has no place in the import order: give it one in this test and the "
        "design"
    )


def imported(tree: ast.AST, known: set[str]) -> set[str]:
    """Modules of the package that a module imports anywhere, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where things are"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [
                name if name.removeprefix("homolog.") in known else str(node.module)
                for name in inner
            ]
        else:
            continue
        found |= {name.removeprefix("homolog.") for name in names if name.startswith("homolog.")}
        assert "homolog" not in names, "inside the package, name the module that has it"
    return found


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_go_up_the_list_only(path: Path) -> None:
    module = dotted(path)
    known = {dotted(other) for other in MODULES}
    for other in sorted(imported(ast.parse(path.read_text(encoding="utf-8")), known)):
        assert layer(other) <= layer(module), (
            f"homolog.{module} imports homolog.{other}, which comes after it"
        )


def test_the_report_never_imports_models() -> None:
    for path in (SOURCE / "report").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert "homolog.models" not in source, path
        assert "import torch" not in source, path


def test_record_imports_no_domain_package() -> None:
    known = {dotted(other) for other in MODULES}
    for path in (SOURCE / "record").rglob("*.py"):
        for other in imported(ast.parse(path.read_text(encoding="utf-8")), known):
            assert other.split(".")[0] in {"errors", "record"}, f"{path} imports {other}"


def test_the_rule_sees_a_lazy_import() -> None:
    tree = ast.parse("def f():\n    from homolog.matching import pearson\n")
    assert imported(tree, {"matching", "matching.pearson"}) == {"matching.pearson"}
    assert layer("models.load") < layer("matching.pearson")
    assert layer("zoo.catalog") < layer("models.load") < layer("zoo_training.train")
