"""The pages that are made from the code: `python docs/make_reference.py` writes them.

    api.md        public names
    tables.md     every table of a run, column by column
    settings.md   every key of a recipe, and every setting of `homolog sae`
    zoo.md        the models that ship: its tables, of their cards

Public is what a package lists in `__all__`.  A name stands once, under the shortest address that
gives it, with the first sentence of its docstring; a constant shows its value.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import typer

import homolog
from homolog.dictionaries.configs import TrainingConfig
from homolog.dictionaries.kinds import KINDS
from homolog.matching import MatchSettings
from homolog.record import settings, tables
from homolog.record.recipe import EvaluationRecipe, Recipe, SaeRecipe
from homolog.zoo import catalog

FOLDER = Path(__file__).parent
COMMAND = "python docs/make_reference.py"

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
    if isinstance(thing, list):  # of what has names, as analyses
        many, thing = True, [item.name for item in thing]
    if isinstance(thing, typer.Typer):
        return f"- `{name}`: All commands."
    value = re.sub(r"homolog\.(?:\w+\.)+", "", ", ".join(map(str, thing)) if many else f"{thing}")
    return f"- `{name}`: `{textwrap.shorten(value, 80, placeholder=' ...')}`"


def first_sentence(docstring: str | None) -> str:
    """Up to the first full stop before a space, or the whole first paragraph; "" without one."""
    paragraph = " ".join(inspect.cleandoc(docstring or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph, maxsplit=1)[0]


def settings_page() -> str:
    """Text of docs/settings.md."""
    parts = [
        "# Settings\n\nKeys of a recipe, table by table, with their defaults; unknown keys are "
        f"refused. Written by `{COMMAND}`.\n",
        settings.page(Recipe, "A recipe"),
    ]
    parts += [settings.page(kind.Settings, f"[sae] kind = {name}") for name, kind in KINDS.items()]
    parts += [
        settings.page(SaeRecipe, "Options of `homolog sae train`"),
        settings.page(EvaluationRecipe, "Options of `homolog sae eval`"),
    ]
    parts += [settings.page(MatchSettings, "`homolog.match` and `homolog match`")]
    parts += [settings.page(TrainingConfig, "Of the training, from Python")]
    return "\n".join(parts)


def zoo_page() -> str:
    """Text of docs/zoo.md: what stands there, with its tables renewed."""
    text = (FOLDER / "zoo.md").read_text(encoding="utf-8")
    trained = [entry for entry in map(catalog.entry, catalog.names()) if entry.trained]
    heads = ["model", "type", "blocks", "parameters", "held-out loss, nats"]
    tasks = ["induction", "natural induction", "recall", "agreement", "years"]
    for mark, source, more in (("pair", "zoo:demo", []), ("families", "zoo:domains", tasks)):
        rows = [said(entry) for entry in trained if entry.text == source]
        before, start, rest = text.partition(f"<!-- {mark} -->\n")
        text = (
            before + start + table(heads + more, rows) + "".join(rest.partition("<!-- end -->")[1:])
        )
    return text


def said(entry: catalog.Entry) -> list[str]:
    """The cells of a model's row."""
    scores, config = (
        json.loads((entry.folder / name).read_text(encoding="utf-8"))
        for name in ("scores.json", "config.json")
    )
    blocks, loss = config["num_hidden_layers"], scores["held_out_loss"]
    cells = [entry.name, config["model_type"], str(blocks), f"{scores['n_parameters']:,}"]
    shares = [
        row["on_top" if row["task"] == "induction" else "solved"] for row in scores.get("tasks", [])
    ]
    return [*cells, f"{loss:.2f}", *(f"{share:.0%}" for share in shares)]


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [heads, ["---"] * len(heads), *rows])


def pages() -> dict[str, str]:
    """The text of every page by its name."""
    return {
        "api.md": api_page(),
        "tables.md": tables.page(),
        "settings.md": settings_page(),
        "zoo.md": zoo_page(),
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
