"""The sections about circuits as text, rendered as a page renders them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.report.pages import Text

from homolog.analyses import ANALYSES
from homolog.analyses.analysis import Page
from homolog.analyses.induction.records import CircuitRecords, read_circuits
from homolog.analyses.records import Records
from homolog.report.page import Chapter, chapters
from homolog.report.templating import environment


def circuits(path: Path) -> CircuitRecords:
    """The circuits of a run that has some."""
    records = read_circuits(path)
    assert records is not None
    return records


def circuit_page(path: Path) -> list[Chapter]:
    """What the page of the circuits of a run says and draws."""
    return rendered("circuits", circuits(path))


def rendered(page: Page, records: Records) -> list[Chapter]:
    """What the analyses say of these records."""
    return chapters(ANALYSES, {page: records}, environment())


def texts(page: list[Chapter]) -> dict[str, str]:
    """The visible words of each chapter."""
    said = {}
    for chapter in page:
        reader = Text()
        reader.feed(chapter.body)
        said[chapter.title] = re.sub(r" (?=[.,;:?])", "", " ".join(" ".join(reader.words).split()))
    return said


def figures(page: list[Chapter]) -> dict[str, Any]:
    """The figures by name."""
    return {figure.name: figure for chapter in page for figure in chapter.figures}
