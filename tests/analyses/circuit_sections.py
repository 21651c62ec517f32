"""The sections about circuits as text, rendered as a page renders them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.analyses.planted_circuits import MAMBA, TRANSFORMER
from tests.report.pages import Text

from homolog.analyses import ANALYSES
from homolog.analyses.analysis import Page
from homolog.analyses.induction.records import CircuitRecords, read_circuits
from homolog.analyses.records import Records, StudyRecords
from homolog.report.page import Chapter, chapters
from homolog.report.templating import environment


def circuits(path: Path) -> CircuitRecords:
    """The circuits of a run that has some."""
    records = read_circuits(path)
    assert records is not None
    return records


def circuit_page(path: Path) -> list[Chapter]:
    """What the page of the circuits of a run says and draws."""
    return chapters(ANALYSES, {"circuits": circuits(path)}, environment())


def study_page(path: Path) -> list[Chapter]:
    """What the pages of a study say and draw that has nothing but circuits, or not even those."""
    about: dict[Page, Records] = {"study": StudyRecords(path, {}, (TRANSFORMER, MAMBA))}
    if (traced := read_circuits(path)) is not None:
        about["circuits"] = traced
    return chapters(ANALYSES, about, environment())


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
