"""Templates and assets of the pages: the files in `templates`, filled with escaped text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources

import jinja2
from markupsafe import Markup

from homolog.charts import theme, words
from homolog.record.names import listed

SHORT_NAME = 24
"""Characters of a model's name, below which it is kept on one line."""


def template_text(name: str) -> str:
    """The contents of a file in `templates`."""
    return resources.files("homolog.report").joinpath("templates", name).read_text("utf-8")


def environment(names: Sequence[str] = ()) -> jinja2.Environment:
    """An environment of its own for the caller; a name that is not given is an error.

    Filters write numbers as `charts.words` does; `named` keeps each of the models' `names` in one
    piece.
    """
    pages = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(template_text),
    )
    pages.policies["json.dumps_kwargs"] = {
        "sort_keys": False,
        "separators": (",", ":"),
        "ensure_ascii": False,
    }
    numbers = (words.chance, words.integer, words.interval, words.level, words.number)
    for function in (*numbers, words.percent, words.seconds, words.size):
        pages.filters[function.__name__] = function
    pages.filters["listed"] = lambda items: listed(list(items))
    pages.filters["named"] = lambda text: named(text, names)
    return pages


def model_colours() -> str:
    """Style of the classes model-0, model-1, ...: a model's colour each, in both schemes."""
    light, dark = (
        "".join(f".model-{i} {{ --model: {colour}; }}\n" for i, colour in enumerate(colours))
        for colours in zip(*theme.MODEL_COLOURS, strict=True)
    )
    return f"{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"


def named(text: str, names: Sequence[str]) -> Markup:
    """`text` escaped, with each model name that is short enough kept on one line."""
    if not names:
        return Markup.escape(text)
    longest_first = sorted(names, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
    kept = Markup('<span class="name">{}</span>')
    return Markup("").join(
        kept.format(part) if part in names and len(part) < SHORT_NAME else part for part in parts
    )
