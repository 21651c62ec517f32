"""What a page of the documentation names and is not there: names, commands, recipes, links, paths.

Python is followed from its imports to the attributes of what they give, as far as annotations tell.
Command lines are parsed by the command line itself and never run.
"""

from __future__ import annotations

import builtins
import functools
import re
import shlex
import textwrap
import tomllib
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import typer

from documented_python import missing_names, resolve
from homolog.cli import app
from homolog.dictionaries.kinds import kind_of
from homolog.errors import InputError
from homolog.record.recipe import Recipe

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "homolog"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

SOURCE_FILE = (".py", ".md", ".toml", ".j2", ".csv", ".svg")
"""A bare name that ends so is a file of the project; other bare names (run.json) are of a run."""

NOT_OF_THE_PROJECT = {
    r"(RUN|runs)/.*": "in a run folder",
    r"report/(index\.html|figures/.*)": "in a run folder",
    r"(report/)?explorer/index\.html": "in a run folder",
    r"(cache|columns|contexts|features|pairs|ratings|saes|sinks|wandb)/": "in a run folder",
    r"(config|mine|my-recipe)\..*": "the reader's own file",
    r".*/NAME\.py": "to be added",
}
"""Patterns of paths that are none of the project's, with where they are."""

FORMULAS = {"MPPC", "ceil", "cos", "figure", "function", "tr"}
"""Called in formulas, templates and descriptions, and no functions of ours."""

FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`((?:(?!\n\s*\n)[^`])+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PYTHON_NAME = re.compile(r"(?<![\w./@-])homolog(?:\.[A-Za-z_]\w*)+")
IMPORT = re.compile(r"^ *(from homolog[\w.]* import [\w, ]+|import homolog[\w.]*)", re.MULTILINE)
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*/?")
ROOTED_PATH = re.compile(r"(?<![\w./-])(?:src|tests|docs|benchmarks)/[\w./-]*\w")

# Typer carries a click of its own; both have this base of BadParameter.
USAGE_ERROR: Any = typer.BadParameter.__bases__[0]


class Wrong(NamedTuple):
    """Something a page names that is not there."""

    page: str
    line: int
    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.name}: {self.why}"


@dataclass(frozen=True)
class Page:
    """A page of Markdown, with what is code in it told from what is prose."""

    path: Path
    text: str

    def wrong(self, at: int, name: str, why: object) -> Wrong:
        """`at` counts letters from the start of the page."""
        page = self.path.relative_to(ROOT).as_posix()
        return Wrong(page, self.text.count("\n", 0, at) + 1, " ".join(name.split()), str(why))

    @functools.cached_property
    def code(self) -> str:
        """The page with everything that is not code as spaces: letters keep their places."""
        fenced = set()
        for block in FENCE.finditer(self.text):
            fenced |= set(range(block.start(2), block.end(2)))
        kept, at, before = [], 0, ""
        indented = False
        for line in self.text.splitlines(keepends=True):
            starts = line.startswith("    ") and (indented or not before.strip())
            indented = starts or (indented and not line.strip())
            keep = indented or at in fenced
            kept.append(line if keep else re.sub(r"[^\n]", " ", line))
            at, before = at + len(line), line
        return "".join(kept)

    @property
    def prose(self) -> str:
        """The page with all code as spaces."""
        pairs = zip(self.text, self.code, strict=True)
        return "".join(" " if code not in " \n" else letter for letter, code in pairs)


# ---- Python names


def python_names(page: Page) -> Iterator[Wrong]:
    for match in PYTHON_NAME.finditer(page.text):
        try:
            resolve(match[0])
        except (AttributeError, ImportError) as error:
            yield page.wrong(match.start(), match[0], error)
    pieces = [(f.start(2), f[2]) for f in FENCE.finditer(page.text) if f[1] == "python"]
    pieces += [(f.start(1), f[1]) for f in IMPORT.finditer(page.text)]
    for at, source in pieces:
        for line, name, why in missing_names(textwrap.dedent(source)):
            shift = sum(map(len, source.splitlines(keepends=True)[: line - 1]))
            yield page.wrong(at + shift, name, why)


def short_names(page: Page) -> Iterator[Wrong]:
    """`matching.calibrate` stands for homolog.matching.calibrate, or for a key of a recipe."""
    packages = {path.stem for path in SOURCE.iterdir()}
    for match in SPAN.finditer(page.prose):
        name = re.match(r"[a-z_]+(?:\.[A-Za-z_]\w*)+", match[1])
        if name is None or name[0].split(".")[0] not in packages or is_file_name(name[0]):
            continue
        if is_setting(name[0]):
            continue
        try:
            resolve(f"homolog.{name[0]}")
        except (AttributeError, ImportError) as error:
            yield page.wrong(match.start(1), name[0], error)


def is_setting(name: str) -> bool:
    """Whether it is a key of a table of a recipe: `matching.fdr`."""
    table, _, key = name.partition(".")
    field = Recipe.model_fields.get(table)
    kinds = () if field is None else (field.annotation, *typing.get_args(field.annotation))
    return any(key in getattr(kind, "model_fields", {}) for kind in kinds)


def called_names(page: Page) -> Iterator[Wrong]:
    """A bare name that is called, `prepare(x)`, is a function or class somewhere in the source."""
    own = re.findall(
        r"(?:def|class) (\w+)|^from (?!homolog)\S+ import (.*)", page.code, re.MULTILINE
    )
    words = {word for names in own for name in names for word in re.findall(r"\w+", name)}
    known = defined() | words | FORMULAS | set(dir(builtins))
    for text in (
        page.code,
        *(" " * match.start(1) + match[1] for match in SPAN.finditer(page.prose)),
    ):
        for match in re.finditer(r"(?<![\w.])([A-Za-z]\w+)\(", text):
            if match[1] not in known and not match[1].endswith("_"):
                yield page.wrong(
                    match.start(), f"{match[1]}()", "no function or class of the source"
                )


@functools.cache
def defined() -> frozenset[str]:
    """Names of all functions and classes of the source."""
    files = [path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")]
    return frozenset(re.findall(r"^ *(?:def|class) (\w+)", "\n".join(files), re.MULTILINE))


def is_file_name(name: str) -> bool:
    return name.endswith((*SOURCE_FILE, ".parquet", ".json", ".html", ".safetensors"))


# ---- Command lines


def command_lines(page: Page) -> Iterator[Wrong]:
    """Lines of code are whole command lines; spans of prose may leave arguments out."""
    code = re.sub(r"\\\n", "  ", page.code)  # continued; letters keep their places
    for match in re.finditer(r"^ *(?:[A-Z_]+=\S+ )*homolog (.*)$", code, re.MULTILINE):
        yield from refused(page, match, whole=True)
    for match in re.finditer(r"`homolog ((?:(?!\n\s*\n)[^`])+)`", page.prose):
        yield from refused(page, match, whole=False)


def refused(page: Page, match: re.Match[str], whole: bool) -> Iterator[Wrong]:
    try:
        parse(shlex.split(match[1], comments=True), whole)
    except LookupError as error:
        yield page.wrong(match.start(1), f"homolog {match[1]}", error.args[0])
    except USAGE_ERROR as error:
        yield page.wrong(match.start(1), f"homolog {match[1]}", error.format_message())
    except InputError as error:
        yield page.wrong(match.start(1), f"homolog {match[1]}", error)


def parse(words: list[str], whole: bool) -> None:
    """Parse as the command line would, without running.

    USAGE_ERROR, LookupError or InputError if it cannot.
    """
    command: Any = typer.main.get_command(app)
    path = "homolog"
    while hasattr(command, "commands"):
        if not words and not whole:
            return
        name = words[0] if words else "(nothing)"
        if name == "--help":
            return
        inner = command.get_command(None, name)  # some groups are imported only then
        if inner is None:
            raise LookupError(f"{path} has no command {name}")
        command, words, path = inner, words[1:], f"{path} {name}"
    if whole:
        given = command.make_context(path, list(words)).params
        if "kind" in given:
            kind_of(given["kind"])  # which the command itself does when it runs
    else:
        context = command.context_class(command, info_name=path)
        command.make_parser(context).parse_args(list(words))


def make_targets(page: Page) -> Iterator[Wrong]:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for match in re.finditer(r"(?:^    |`)make (\w+)", page.text, re.MULTILINE):
        if match[1] not in targets:
            yield page.wrong(match.start(1), f"make {match[1]}", "the Makefile has no such target")


def recipes(page: Page) -> Iterator[Wrong]:
    """Fenced TOML is a recipe that can be run."""
    from homolog.pipeline.recipes import parse_recipe

    for match in FENCE.finditer(page.text):
        if match[1] == "toml":
            try:
                parse_recipe({"name": "page"} | tomllib.loads(match[2]), "recipe")
            except (InputError, tomllib.TOMLDecodeError) as error:
                yield page.wrong(match.start(2), "recipe", error)


# ---- Links and paths


def links(page: Page) -> Iterator[Wrong]:
    for match in LINK.finditer(page.prose):
        target, _, heading = match[1].partition("#")
        if ":" in target:  # another site's
            continue
        file = page.path.parent / target
        if not file.exists():
            yield page.wrong(match.start(1), match[1], "no such file")
        elif heading and heading not in headings(file.read_text("utf-8") if target else page.text):
            yield page.wrong(match.start(1), match[1], "the page has no such heading")


def headings(text: str) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def paths(page: Page) -> Iterator[Wrong]:
    for match in SPAN.finditer(page.prose):
        if looks_like_a_path(match[1]) and not exists(match[1]):
            yield page.wrong(match.start(1), match[1], "no such file or folder in the project")
    for match in ROOTED_PATH.finditer(page.text):
        if not (ROOT / match[0]).exists():
            yield page.wrong(match.start(), match[0], "no such file or folder in the project")


def looks_like_a_path(span: str) -> bool:
    """Of the project: with a folder and an ending, or an ending of source; MODEL/3 is a pattern."""
    if not PATH.fullmatch(span) or any(
        re.fullmatch(pattern, span) for pattern in NOT_OF_THE_PROJECT
    ):
        return False
    if any(part.isupper() for part in Path(span).parts) or ROOTED_PATH.match(span):
        return False
    return span.endswith(("/", *SOURCE_FILE)) or ("/" in span and "." in Path(span).name)


def exists(span: str) -> bool:
    """matching/pearson.py is src/homolog/matching/pearson.py: the end of a path is enough."""
    return any(path.endswith(f"/{span.rstrip('/')}") for path in project_files())


@functools.cache
def project_files() -> frozenset[str]:
    """Every file, as "/src/homolog/axes.py", and every folder that has one."""
    parts = (ROOT / part for part in ("src", "tests", "docs", "benchmarks"))
    files = [path for part in parts for path in part.rglob("*") if path.suffix != ".pyc"]
    kept = {path.relative_to(ROOT) for path in [*files, *ROOT.iterdir()] if path.is_file()}
    folders = {folder for path in kept for folder in path.parents}
    return frozenset(f"/{path.as_posix()}" for path in kept | folders)


CHECKS = (
    python_names,
    short_names,
    called_names,
    command_lines,
    make_targets,
    recipes,
    links,
    paths,
)
