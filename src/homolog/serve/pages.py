"""The page of a prompt, what it loads, and the links to it in pages of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from homolog.charts.links import FOLDER
from homolog.record.run_folder import RunFolder
from homolog.report.templating import environment, model_colours, template_text

ASSETS = ("report.css", "explorer.css", "prompt.css", "explorer-data.js", "prompt.js")
"""In the order in which the page loads them."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MARK = "<!-- a prompt to try -->"
"""Where a page of the report has its link, once it is served."""


def asset(name: str) -> str:
    """One of `ASSETS`."""
    text = template_text(name)
    return text + model_colours() if name == "explorer.css" else text


def prompt_page(run: RunFolder, about: Mapping[str, Any] | None, missing: str) -> str:
    """The page; about: what it knows (`Desk.about`), None where something is missing."""
    name = str(run.record.get("name", ""))
    known = None
    if about is not None:
        explored = (run.report_folder / FOLDER / "index.html").is_file()
        known = {**about, "explored": explored}
    page = environment().get_template("prompt.html.j2")
    return page.render(name=name, about=known, missing=missing, assets=ASSETS)


def linked(page: str, address: str) -> str:
    """A page of the report with a link to the prompt."""
    return page.replace(MARK, Markup('<a href="{}">A prompt to try</a>').format(address))
