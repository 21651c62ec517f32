"""Templates and assets of the pages: the files in `templates`, and the environment that fills them,
escaping text.
"""

from __future__ import annotations

from importlib import resources

import jinja2


def template_text(name: str) -> str:
    """The contents of a file in `templates`."""
    return resources.files("homolog.report").joinpath("templates", name).read_text("utf-8")


def environment() -> jinja2.Environment:
    """An environment of its own for the caller to add filters to; a name that is not given is an
    error.
    """
    return jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(template_text),
    )
