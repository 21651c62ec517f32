"""Annotated shapes, dtypes and types are checked while the tests run: beartype's checks, with the
axes of jaxtyping.

Of each function the first `ALWAYS` calls of a test are checked and then one in `EVERY`: some are
called a hundred thousand times by one test, alike each time.

jaxtyping has an import hook of its own.  It binds the arguments of every call, for its messages,
and checks parameters twice, which was a third of the time of a small study; and while it imports a
module, Python finds no compiled file of what that module imports, torch included.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import jaxtyped

COMPILERS = {"numba", "triton"}
CHECKED = "_checked_by_tests"
"""What `checked` is called in the modules."""
CONF = BeartypeConf(is_pep484_tower=True)  # int where float is asked for
ALWAYS, EVERY = 20, 50


class _Test:
    """The number of the test that runs."""

    number = 0


def begin_test() -> None:
    """From here on calls are counted anew."""
    _Test.number += 1


def install(package: str) -> None:
    """Check the functions and dataclasses of the package's modules that are imported from now on.

    Modules that compile their functions (numba, by `jit` too, and Triton) are left out: the checks
    would be compiled along.
    """
    sys.meta_path.insert(0, _Finder(package))


def checked(what: Any) -> Any:
    """A function or a dataclass whose annotations are checked; an axis has one size in a call.

    The checks of a function are made when it is first called.
    """
    if inspect.isclass(what):
        if is_dataclass(what):
            what.__init__ = checked(what.__init__)
        return what
    if not inspect.isfunction(what):  # a classmethod, a property
        return beartype(what, conf=CONF)
    typed: Callable[..., Any] | None = None
    test = n_calls = 0

    @functools.wraps(what)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal typed, test, n_calls
        if test != _Test.number:
            test, n_calls = _Test.number, 0
        n_calls += 1
        if n_calls > ALWAYS and n_calls % EVERY:
            return what(*args, **kwargs)
        if typed is None:
            what.__annotations__ = _resolved(what)
            typed = beartype(_checked_when_called(what), conf=CONF)
        with jaxtyped("context"):
            return typed(*args, **kwargs)

    return call


def _checked_when_called(what: Callable[..., Any]) -> Callable[..., Any]:
    """The same, as no generator: that is checked later, when axes of another call are known."""
    if not inspect.isgeneratorfunction(what):
        return what

    @functools.wraps(what)
    def made(*args: Any, **kwargs: Any) -> Any:
        return what(*args, **kwargs)

    return made


def decorated(source: bytes | str, path: str) -> ast.Module:
    """A module with `checked` around each function and class, unless it compiles its functions."""
    tree = ast.parse(source, path)
    if any(_imports_compiler(node) for node in ast.walk(tree)):
        return tree
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):  # above @dataclass
            node.decorator_list.insert(0, _decorator(node))
        elif isinstance(node, ast.FunctionDef):  # below all that may hide the annotations
            node.decorator_list.append(_decorator(node))
    return tree


def _decorator(node: ast.AST) -> ast.expr:
    name = ast.copy_location(ast.Name(CHECKED, ast.Load()), node)
    return ast.fix_missing_locations(name)


def _imports_compiler(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return bool(COMPILERS & {name.name.split(".")[0] for name in node.names})
    if isinstance(node, ast.ImportFrom):
        known = (node.module or "").split(".")[0] in COMPILERS
        return known or "jit" in {name.name for name in node.names}
    return False


def _resolved(function: Any) -> dict[str, Any]:
    """Its annotations but those with names that only a type checker imports."""
    hints = {}
    for name, hint in function.__annotations__.items():
        try:
            hints[name] = eval(hint, function.__globals__) if isinstance(hint, str) else hint
        except NameError:
            continue
    return hints


class _Finder:
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.split(".")[0] != self.package:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        tree = decorated(self.get_data(path), path)
        return compile(tree, path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        setattr(module, CHECKED, checked)
        super().exec_module(module)
