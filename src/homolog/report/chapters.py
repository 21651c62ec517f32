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
    sections: list[tuple[str, str]] = []
    figures: list[Figure] = []
    for analysis in analyses:
        about = records.get(analysis.page)
        values = analysis.values(about) if about is not None and analysis.section else None
        if about is None or values is None:
            continue
        drawn = analysis.drawn(about)
        figures += drawn
        given = {
            "figures": {figure.name: figure for figure in drawn},
            "figure_folder": figure_folder,
            "records": about,
        }
        text = pages.from_string(PRELUDE + analysis.section).render(**given, **values)
        sections += [(analysis.chapter, text)] if text.strip() else []
    chapters = [
        Chapter(title, _slug(title), Markup("\n".join(text for _, text in group)))
        for title, group in itertools.groupby(sections, lambda section: section[0])
    ]
    return Body(chapters, figures)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
