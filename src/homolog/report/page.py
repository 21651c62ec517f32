"""The pages: the sections of all analyses as one folder that opens from the file system.

`write_report` builds the whole folder beside its final place and then renames it, so that a reader
sees the old pages or the new ones.  The same run folder gives the same bytes: a page carries no
time of its own and leaves out the stage that builds it.

    a comparison of two models   index.html, and a page for each chapter, as chance.html
    of more                      index.html about all, and pair-A--B.html for each pair, with its
                                 own pages, as pair-A--B-chance.html
    circuits alone               index.html about them
    a grid of studies            index.html; each cell has a report of its own

A chapter stands on a page of its own, but those of analyses that are `home` stand on the first one
(where there are none, the first chapter does), which leads to all others.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from homolog.report.run_sections import made_by, run_values, stage_figure
from homolog.report.templating import environment, template_text

PRELUDE = '{% from "macros.html.j2" import table, figure, verdict_box, doubts_box with context %}'
INDEX = "index.html"


@dataclass(frozen=True)
class Chapter:
    """A heading, what stands under it, and the figures of it.

    home: on the first page itself.  asked: what it answers beside what its figures ask.
    """

    title: str
    body: Markup
    figures: list[Figure]
    home: bool = False
    asked: tuple[str, ...] = ()

    @property
    def questions(self) -> list[str]:
        """What it answers, for the link to it: three at most."""
        return [*self.asked, *(figure.title for figure in self.figures)][:3]

    @property
    def slug(self) -> str:
        """The title as an address."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "chapter"


def chapters(
    analyses: Sequence[Analysis],
    records: Mapping[Page, Records],
    pages: jinja2.Environment,
    figure_folder: str = "figures",
) -> list[Chapter]:
    """What the analyses say, in their order; all of one title is one chapter.

    records: for each kind of section that is wanted, what it is about.  A section is filled with
    its `values`, the figures of its analysis by name and the `records`.
    """
    found: dict[str, Chapter] = {}
    for analysis in analyses:
        alone = analysis.beside is not None and analysis.beside not in records
        about = None if alone else records.get(analysis.page)
        values = analysis.values(about) if about is not None and analysis.section else None
        if about is None or values is None:
            continue
        drawn = analysis.drawn(about)
        text = _filled(pages, analysis.section, drawn, figure_folder, {"records": about, **values})
        if text.strip():
            before = found.get(analysis.chapter, Chapter(analysis.chapter, Markup(), []))
            found[analysis.chapter] = Chapter(
                analysis.chapter,
                before.body + text,
                [*before.figures, *drawn],
                before.home or analysis.home,
                before.asked + ((analysis.asks,) if analysis.asks else ()),
            )
    return list(found.values())


def _filled(
    pages: jinja2.Environment,
    section: str,
    figures: Sequence[Figure],
    figure_folder: str,
    values: Mapping[str, Any],
) -> Markup:
    """A section with its figures; everything that comes from the run is escaped."""
    known = {"figures": {figure.name: figure for figure in figures}, "figure_folder": figure_folder}
    return Markup(pages.from_string(PRELUDE + section).render(**known, **values))


@dataclass(frozen=True)
class Leaf:
    """A subject of the report: the first of its pages, and the folder of its figures.

    about: for each kind of section that stands there, the records; the first is the subject.
    """

    file: str
    about: Mapping[Page, Records]
    figure_folder: str = "figures"

    @property
    def kind(self) -> Page:
        """What the pages are about; the template of that name has their title."""
        return next(iter(self.about))

    @property
    def subject(self) -> Records:
        """The records of that kind."""
        return self.about[self.kind]

    @property
    def names(self) -> list[str]:
        """The models, in the order of the subject."""
        return list(dict.fromkeys(name for about in self.about.values() for name in about.names))

    def files(self, chapters: Sequence[Chapter]) -> list[str]:
        """The page of each chapter that has one of its own: no two are one file."""
        stem = "" if self.file == INDEX else f"{self.file.removesuffix('.html')}-"
        files = [self.file]
        for chapter in chapters:
            name = f"{stem}{chapter.slug}"
            taken = f"{name}.html" in files
            files.append(f"{name}-{len(files)}.html" if taken else f"{name}.html")
        return files[1:]


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
    """The subjects of a run; tables of one pair at a time are in memory."""
    if grid is not None:
        yield Leaf(INDEX, {"grid": grid})
        return
    traced: dict[Page, Records] = {} if circuits is None else {"circuits": circuits}
    if study is None:
        yield Leaf(INDEX, traced)
    elif len(study.compared) == 2:
        yield Leaf(INDEX, {"pair": study.of(study.pairs[0]), "study": study, **traced})
    else:
        yield Leaf(INDEX, {"study": study, **traced})
        for pair, name in zip(study.pairs, pair_pages(study.pairs), strict=True):
            yield Leaf(f"{name}.html", {"pair": study.of(pair)}, f"figures/{name}")


def _write(leaf: Leaf, analyses: Sequence[Analysis], folder: Path) -> None:
    texts, figures = render(leaf, analyses)
    made = made_by(leaf.subject)
    place = folder / leaf.figure_folder
    for file, text in texts.items():
        (folder / file).write_text(text, "utf-8")
    if texts:
        place.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        spec = figure.spec | {"usermeta": figure.spec["usermeta"] | {"made": made}}
        export.save_figure(spec, place, figure.name)


def render(leaf: Leaf, analyses: Sequence[Analysis]) -> tuple[dict[str, str], list[Figure]]:
    """The texts of the pages of a subject by file, and all its figures.

    Both empty where nothing stands on them; the index has the run's own chapters always.
    """
    pages = environment(leaf.names)
    said = chapters(analyses, leaf.about, pages, leaf.figure_folder)
    if said and not any(chapter.home for chapter in said):
        said[0] = replace(said[0], home=True)
    if leaf.file == INDEX:
        said += _of_the_run(leaf, analyses, pages)
    if not said:
        return {}, []
    home = [chapter for chapter in said if chapter.home]
    others = [chapter for chapter in said if not chapter.home]
    files = leaf.files(others)
    template = pages.get_template(f"pages/{leaf.kind}.html.j2")

    def text(file: str, on_it: list[Chapter]) -> str:
        return template.render(
            records=leaf.subject,
            index=leaf.file == INDEX,
            home=leaf.file,
            file=file,
            chapters=on_it,
            contents=list(zip(files, others, strict=True)),
            figures=[figure for chapter in on_it for figure in chapter.figures],
            dark_colours=theme.dark_colours(),
        )

    texts = {file: text(file, [one]) for file, one in zip(files, others, strict=True)}
    figures = [figure for chapter in said for figure in chapter.figures]
    return {leaf.file: text(leaf.file, home), **texts}, figures


def _of_the_run(
    leaf: Leaf, analyses: Sequence[Analysis], pages: jinja2.Environment
) -> list[Chapter]:
    """What a run says of itself: its models and text, and how it was made."""
    stages = stage_figure(leaf.subject)
    figures = [stages] if stages is not None else []
    values = run_values(leaf.subject, analyses)

    def chapter(title: str, asks: str, name: str, figures: list[Figure]) -> Chapter:
        body = _filled(pages, template_text(name), figures, leaf.figure_folder, values)
        return Chapter(title, body, figures, asked=(asks,))

    models = chapter("Models and text", "What was compared, and on what?", "models.html.j2", [])
    run = chapter("The run", "How was it made, and how is it made again?", "run.html.j2", figures)
    return [run] if leaf.kind == "circuits" else [models, run]


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
