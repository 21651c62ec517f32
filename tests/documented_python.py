"""Follows pieces of Python in the documentation from their imports of homolog to the attributes of
what they give, as far as annotations tell.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import typing
from typing import Any, NamedTuple


def missing_names(source: str) -> list[tuple[int, str, str]]:
    """Line, name and why of what a piece of Python names and is not there; nothing is run."""
    names = Names()
    try:
        names.visit(ast.parse(source))
    except SyntaxError as error:
        return [(1, "python", str(error))]
    return names.missing


class Instance(NamedTuple):
    """Some object of this class."""

    of: type


def resolve(name: str) -> Any:
    """The module or object with this dotted name; an exception that says what is missing."""
    first, *rest = name.split(".")
    thing: Any = importlib.import_module(first)
    for i, part in enumerate(rest):
        if inspect.ismodule(thing) and not hasattr(thing, part):
            try:
                importlib.import_module(".".join([first, *rest[: i + 1]]))
            except ModuleNotFoundError:
                raise AttributeError(f"{thing.__name__} has no {part}") from None
        thing = attribute(thing, part)
    return thing


def attribute(thing: Any, name: str) -> Any:
    """An attribute of a module, a class or an Instance; None where what it is is not known."""
    holder = thing.of if isinstance(thing, Instance) else thing
    if not hasattr(holder, name):
        kin = family(holder) if inspect.isclass(holder) else []
        if any(hasattr(cls, name) or sets(cls, name) or lists(cls, name) for cls in kin):
            return None
        raise AttributeError(f"{getattr(holder, '__name__', holder)} has no {name}")
    stored = inspect.getattr_static(holder, name) if isinstance(thing, Instance) else None
    if isinstance(stored, property | functools.cached_property):
        return result(stored.fget if isinstance(stored, property) else stored.func)
    return getattr(holder, name)


def family(cls: type) -> list[type]:
    """A class of ours with those it is made from, and those that an object of it may also be."""
    below = [kin for sub in cls.__subclasses__() for kin in family(sub)]
    return [kin for kin in (*cls.__mro__, *below) if kin.__module__.startswith("homolog.")]


def sets(cls: type, name: str) -> bool:
    """Whether the class declares the attribute, or sets it on itself as constructors do."""
    return name in inspect.get_annotations(cls) or f"self.{name} = " in inspect.getsource(cls)


def lists(cls: type, name: str) -> bool:
    """Whether a class that makes attributes when they are asked for lists this one."""
    return "__getattr__" in vars(cls) and name in dir(object.__new__(cls))


def result(function: Any) -> Instance | None:
    """What a call gives: an Instance of a class of ours, or None where that is not known."""
    if inspect.isclass(function):
        return Instance(function)
    try:
        given = typing.get_type_hints(function).get("return")
    except (NameError, TypeError):  # imported for type checkers alone; or no function
        return None
    if inspect.isclass(given) and given.__module__.startswith("homolog."):
        return Instance(given)
    return None


class Names(ast.NodeVisitor):
    """Follows a piece of Python from its imports of homolog to the attributes of what they give."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.missing: list[tuple[int, str, str]] = []

    def say(self, node: ast.AST, name: str, why: object) -> None:
        self.missing.append((getattr(node, "lineno", 1), name, str(why)))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.split(".")[0] == "homolog":
                name = alias.asname or "homolog"
                self.known[name] = self.look(node, alias.name if alias.asname else "homolog")
                self.look(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if (node.module or "").split(".")[0] == "homolog":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                self.known[alias.asname or alias.name] = self.look(node, full)

    def visit_Assign(self, node: ast.Assign) -> None:
        value = self.value(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.known[target.id] = value

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.value(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.value(node)

    def value(self, node: ast.expr) -> Any:
        """What an expression gives, as far as annotations tell; its parts are visited."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if isinstance(node, ast.Attribute):
            holder = self.value(node.value)
            try:
                return None if holder is None else attribute(holder, node.attr)
            except AttributeError as error:
                self.say(node, ast.unparse(node), error)
                return None
        if isinstance(node, ast.Call):
            called = self.value(node.func)
            for child in [*node.args, *(keyword.value for keyword in node.keywords)]:
                self.visit(child)
            return None if called is None else result(called)
        self.generic_visit(node)
        return None

    def look(self, node: ast.AST, name: str) -> Any:
        try:
            return resolve(name)
        except (AttributeError, ImportError) as error:
            self.say(node, name, error)
            return None
