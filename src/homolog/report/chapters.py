"""The body of a page: the sections of the analyses, in their order, under shared headings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
from markupsafe import Markup

from homolog.analyses.analysis import Analysis, Page
from homolog.analyses.records import Records
from homolog.charts.figure import Figure

PRELUDE = '{% from "macros.html.j2" import table, figure, verdict_box with context %}'


@dataclass(frozen=True)
class Chapter:
    """A heading, its address on the page, and what stands under it."""

    title: str
    slug: str
    body: Markup


@dataclass(frozen=True)
class Body:
    """The chapters of a page, and all its figures in their order."""

    chapters: list[Chapter]
    figures: list[Figure]


def body(
    analyses: Sequence[Analysis],
    records: Mapping[Page, Records],
    pages: jinja2.Environment,
    figure_folder: str = "figures",
) -> Body:
    """What the analyses say on a page.

    records: for each kind of section that stands on this page, what it is about.  A section is
    filled with its `values`, the figures of its analysis by name and the `records`.
    """
    chapters: list[Chapter] = []
    figures: list[Figure] = []
    own = [analysis for analysis in analyses if analysis.page in records]
    for title, group in itertools.groupby(own, lambda analysis: analysis.chapter):
        sections: list[str] = []
        for analysis in group:
            about = records[analysis.page]
            values = analysis.values(about)
            if values is None:
                continue
            drawn = analysis.drawn(about)
            figures += drawn
            by_name = {figure.name: figure for figure in drawn}
            template = pages.from_string(PRELUDE + analysis.section)
            given = {"figures": by_name, "figure_folder": figure_folder, "records": about}
            sections.append(template.render(**given, **values))
        if text := "\n".join(section for section in sections if section.strip()):
            chapters.append(Chapter(title, _slug(title), Markup(text)))
    return Body(chapters, figures)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
