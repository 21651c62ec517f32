"""The pages: the sections of all analyses as one folder that opens from the file system.

`write_report` builds the whole folder beside its final place and then renames it, so that a reader
sees the old pages or the new ones.  The same run folder gives the same bytes: a page carries no
time of its own and leaves out the stage that builds it.

    a comparison of two models   index.html
    of more                      index.html about all, and pair-A--B.html for each pair
    with circuits                circuits.html, and their summary in index.html
    circuits alone               index.html, which is the page of the circuits
    a grid of studies            index.html; each cell has a report of its own
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from homolog.analyses import ANALYSES
from homolog.analyses.analysis import Analysis, Page
from homolog.analyses.grid import GridRecords, read_grid
from homolog.analyses.induction.records import read_circuits
from homolog.analyses.records import NEEDED, Records, StudyRecords, read_study
from homolog.charts import theme
from homolog.charts.figure import Figure
from homolog.charts.links import pair_pages
from homolog.record.atomic import PARTIAL_PREFIX, user_errors
from homolog.record.run_folder import RunFolder
from homolog.report import export
from homolog.report.explorer import explore
from homolog.report.run_sections import run_values, stage_figure
from homolog.report.templating import environment, template_text

PRELUDE = '{% from "macros.html.j2" import table, figure, verdict_box with context %}'
INDEX = "index.html"


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


@dataclass(frozen=True)
class Leaf:
    """A page to be written: its file, and the folder of its figures.

    about: for each kind of section that stands on it, the records; the first is its subject.
    """

    file: str
    about: Mapping[Page, Records]
    figure_folder: str = "figures"

    @property
    def kind(self) -> Page:
        """What the page as a whole is about; the template of that name has its title."""
        return next(iter(self.about))

    @property
    def subject(self) -> Records:
        """The records of that kind."""
        return self.about[self.kind]


def write_report(run_path: Path | str, analyses: Sequence[Analysis] = ANALYSES) -> Path:
    """Build run/report/ from the tables of the run folder; returns the path of its index.html.

    Writes the pages, figures/NAME.svg, .png and .vl.json (figures/pair-A--B/ for pairs), assets/
    and, for a run with examples of its features, explorer/; an earlier report is replaced.  Raises
    `InputError` when run.json or a table is missing or unusable, or nothing can be written there.
    """
    folder = RunFolder(Path(run_path))
    folder.require_whole(*folder.told)
    grid, circuits = read_grid(folder.path), read_circuits(folder.path)
    alone = circuits is not None and not any(circuits.has(table) for table in NEEDED)
    study = None if alone or grid is not None else read_study(run_path)
    final = folder.report_folder
    building = final.with_name(f"{PARTIAL_PREFIX}{os.getpid()}-report")
    with user_errors(final):
        _remove_abandoned(final.parent)
        try:
            (building / "assets").mkdir(parents=True)
            for name in ("report.css", "report.js"):
                (building / "assets" / name).write_text(template_text(name), "utf-8")
            (building / "assets" / "vega.js").write_text(export.vega_script(), "utf-8")
            if study is not None:
                explore(study, building)
            for leaf in leaves(study, circuits, grid):
                _write(leaf, analyses, building)
            _replace_folder(building, final)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return final / INDEX


def leaves(
    study: StudyRecords | None, circuits: Records | None, grid: GridRecords | None = None
) -> Iterator[Leaf]:
    """The pages of a run; tables of one pair at a time are in memory."""
    if grid is not None:
        yield Leaf(INDEX, {"grid": grid})
        return
    if study is None:
        assert circuits is not None
        yield Leaf(INDEX, {"circuits": circuits})
        return
    if len(study.compared) == 2:
        yield Leaf(INDEX, {"pair": study.of(study.pairs[0]), "study": study})
    else:
        yield Leaf(INDEX, {"study": study})
        for pair, name in zip(study.pairs, pair_pages(study.pairs), strict=True):
            yield Leaf(f"{name}.html", {"pair": study.of(pair)}, f"figures/{name}")
    if circuits is not None:
        yield Leaf("circuits.html", {"circuits": circuits})


def _write(leaf: Leaf, analyses: Sequence[Analysis], folder: Path) -> None:
    text, figures = render(leaf, analyses)
    if text is None:
        return
    (folder / leaf.file).write_text(text, "utf-8")
    place = folder / leaf.figure_folder
    place.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        export.save_figure(figure.spec, place, figure.name)


def render(leaf: Leaf, analyses: Sequence[Analysis]) -> tuple[str | None, list[Figure]]:
    """The text of a page and its figures; everything that comes from the run is escaped.

    None where nothing stands on it, unless it is the index, which has the run's own sections.
    """
    pages = environment(leaf.subject.names)
    said = body(analyses, leaf.about, pages, leaf.figure_folder)
    index = leaf.file == INDEX
    if not said.chapters and not index:
        return None, []
    stages = stage_figure(leaf.subject) if index else None
    figures = [*said.figures, *([stages] if stages is not None else [])]
    text = pages.get_template(f"pages/{leaf.kind}.html.j2").render(
        kind=leaf.kind,
        records=leaf.subject,
        index=index,
        chapters=said.chapters,
        figures={figure.name: figure for figure in figures},
        figure_folder=leaf.figure_folder,
        dark_colours=theme.dark_colours(),
        **(run_values(leaf.subject, analyses) if index else {}),
    )
    return text, figures


def _remove_abandoned(folder: Path) -> None:
    """Remove what builds left behind whose process has ended, and what this process left."""
    for left in folder.glob(f"{PARTIAL_PREFIX}*-report*"):
        owner = left.name.removeprefix(PARTIAL_PREFIX).split("-")[0]
        if owner.isdigit() and int(owner) != os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(owner), 0)
                continue
        shutil.rmtree(left, ignore_errors=True)


def _replace_folder(new: Path, final: Path) -> None:
    """Rename `new` to `final`; an existing folder steps aside and comes back if that fails."""
    aside = new.with_name(f"{new.name}-old")
    if final.exists():
        os.rename(final, aside)
    try:
        os.rename(new, final)
    except OSError:
        if aside.exists():
            os.rename(aside, final)
        raise
    shutil.rmtree(aside, ignore_errors=True)
