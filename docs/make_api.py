"""The page of public names: `python docs/make_api.py` writes docs/api.md.

Public is what a package lists in `__all__`.  A name stands once, under the shortest address that
gives it, with the first sentence of its docstring; a constant shows its value.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import homolog

PAGE = Path(__file__).parent / "api.md"
COMMAND = "python docs/make_api.py"

START = f"""# Public names

What `__all__` of each package lists, once each, with the first sentence of its docstring;
`help(NAME)` has shapes, units and errors. All else may change without notice.
Written by `{COMMAND}`.
"""


def api_page() -> str:
    """Text of docs/api.md."""
    sections = [START]
    known: set[int] = set()
    for package in packages():
        names = [name for name in package.__all__ if id(getattr(package, name)) not in known]
        known |= {id(getattr(package, name)) for name in names}
        if names:
            lines = [entry(name, getattr(package, name)) for name in names]
            title = f"## `{package.__name__}`\n\n{first_sentence(package.__doc__)}\n"
            sections.append("\n".join([title, *lines]) + "\n")
    return "\n".join(sections)


def packages() -> list[ModuleType]:
    """Packages with an `__all__`, the fewest dots first, so that short addresses win."""
    inner = pkgutil.walk_packages(homolog.__path__, "homolog.")
    names = ["homolog", *(module.name for module in inner if module.ispkg)]
    modules = [importlib.import_module(name) for name in names]
    public = [module for module in modules if hasattr(module, "__all__")]
    return sorted(public, key=lambda module: (module.__name__.count("."), module.__name__))


def entry(name: str, thing: Any) -> str:
    """Line of a class or function with its summary, or of a constant with its value, shortened."""
    if inspect.isclass(thing) or inspect.isroutine(thing):
        signature = (thing.__doc__ or "").startswith(f"{name}(")  # dataclass wrote it, nobody else
        words = "" if signature else first_sentence(thing.__doc__)
        return f"- `{name}`: {words}" if words else f"- `{name}`"
    many = isinstance(thing, dict | tuple | frozenset)
    value = re.sub(r"homolog\.(?:\w+\.)+", "", ", ".join(map(str, thing)) if many else f"{thing}")
    return f"- `{name}`: `{textwrap.shorten(value, 80, placeholder=' ...')}`"


def first_sentence(docstring: str | None) -> str:
    """Up to the first full stop before a space, or the whole first paragraph; "" without one."""
    paragraph = " ".join(inspect.cleandoc(docstring or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph, maxsplit=1)[0]


if __name__ == "__main__":
    PAGE.write_text(api_page(), encoding="utf-8")
