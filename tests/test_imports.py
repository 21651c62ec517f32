"""Imports go one way: from floors below, in no circle, and without torch where none is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "homolog"

FLOORS: list[set[str]] = [
    {"errors", "axes", "compiled", "memory", "threads", "progress", "reference", "record", "zoo"},
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
    {"serve"},
    {"cli", "doctor", "terminal", "__main__"},
]
"""A package imports only from its own floor and those before it."""
HEAVY = {"torch", "transformers", "numba"}
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def dotted(path: Path) -> str:
    """Name of a module below the package: "models.load"; a package's __init__ has the package's
    name.
    """
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(module: str) -> int:
    """Number of the floor that a module is on."""
    for number, packages in enumerate(FLOORS):
        if module.split(".")[0] in packages:
            return number
    raise AssertionError(f"homolog.{module} has no floor: give it one here and in CONTRIBUTING.md")


def nodes(tree: ast.AST, lazy: bool) -> Iterator[ast.AST]:
    """All parts of a tree; without those inside functions unless `lazy`."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if lazy or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from nodes(child, lazy)


def imported(tree: ast.AST, known: set[str], lazy: bool = True) -> set[str]:
    """Modules of the package that a module imports; `lazy`: also inside functions."""
    modules: set[str] = set()
    for node in nodes(tree, lazy):
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
        modules |= {name.removeprefix("homolog.") for name in names if name.startswith("homolog.")}
        assert "homolog" not in names, "inside the package, name the module that has it"
    return modules


def graph(lazy: bool) -> dict[str, set[str]]:
    """For each module those that it imports, also those that only its annotations need."""
    known = {dotted(path) for path in MODULES}
    return {
        dotted(path): imported(ast.parse(path.read_text(encoding="utf-8")), known, lazy)
        for path in MODULES
    }


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other, each in order."""

    def reached(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            new = edges.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        return seen

    reach = {node: reached(node) for node in edges}
    groups = {
        tuple(sorted(other for other in reach[node] if node in reach.get(other, set())))
        for node in edges
    }
    return [list(group) for group in sorted(groups) if group]


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_go_to_floors_below(path: Path) -> None:
    module = dotted(path)
    known = {dotted(other) for other in MODULES}
    for other in sorted(imported(ast.parse(path.read_text(encoding="utf-8")), known)):
        assert floor(other) <= floor(module), (
            f"homolog.{module} imports homolog.{other}, which is on a floor above it"
        )


def test_there_is_no_circle_between_packages() -> None:
    """An import inside a function counts."""
    packages: dict[str, set[str]] = {}
    for module, others in graph(lazy=True).items():
        own = module.split(".")[0]
        packages.setdefault(own, set()).update(other.split(".")[0] for other in others)
    assert circles({own: others - {own} for own, others in packages.items()}) == []


def test_there_is_no_circle_between_modules() -> None:
    """An import that only annotations need counts; inside a package, one in a function does not."""
    assert circles(graph(lazy=False)) == []


LIGHT: dict[str, Callable[[str], bool]] = {
    "record": lambda name: True,
    "charts": lambda name: True,
    "report": lambda name: True,
    "analyses": lambda name: (
        (SOURCE / name.replace(".", "/")).is_dir() or name.split(".")[-1] in ("figures", "section")
    ),
}


@pytest.mark.parametrize("package", LIGHT)
def test_what_reports_need_imports_no_torch(package: str) -> None:
    """Not even indirectly: a page can be built again where no model can run."""
    names = [
        name
        for path in sorted((SOURCE / package).rglob("*.py"))
        if LIGHT[package](name := dotted(path)) and ".measure" not in name
    ]
    assert len(names) > 3
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(f'homolog.{name}')\n"
        f"    heavy = {HEAVY | {'homolog.models'}} & set(sys.modules)\n"
        "    assert not heavy, (name, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_record_imports_no_domain_package() -> None:
    for module, others in graph(lazy=True).items():
        if module.split(".")[0] == "record":
            outside = {other.split(".")[0] for other in others} - {"errors", "record"}
            assert not outside, f"{module} imports {outside}"


def test_the_rules_see_lazy_imports_and_circles() -> None:
    lines = "def f():\n    from homolog.matching import pearson\nif x:\n    import homolog.zoo\n"
    tree, known = ast.parse(lines), {"matching", "matching.pearson", "zoo"}
    assert imported(tree, known) == {"matching.pearson", "zoo"}
    assert imported(tree, known, lazy=False) == {"zoo"}
    assert floor("models.load") < floor("matching.pearson")
    assert floor("zoo.catalog") < floor("models.load") < floor("zoo_training.train")
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d", "a"}}
    assert circles(edges) == [["b", "c"], ["d"]]
