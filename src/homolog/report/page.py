"""The pages: tables and figures of a run as one folder that opens from the file system.

`write_report` builds the whole folder beside its final place and then renames it, so that a reader
sees the old pages or the new ones.  The same run folder gives the same bytes: a page carries no
time of its own and leaves out the stage that builds it.

    a comparison of two models   index.html
    of more                      index.html, all pairs side by side, and pair-A--B.html for each
    with circuits                their summary in index.html, and circuits.html
    circuits alone               index.html, which is the page of the circuits
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from homolog.analyses.records import (
    PairRecords,
    Records,
    StudyRecords,
    read_pair,
    read_study,
)
from homolog.charts import theme
from homolog.charts import words as wording
from homolog.charts.links import address
from homolog.record import comparisons
from homolog.record.atomic import PARTIAL_PREFIX, user_errors
from homolog.record.run_folder import RunFolder
from homolog.report import circuit_tables, circuit_words, export, overview, tables
from homolog.report.charts import Figure, pair_figures, run_figures
from homolog.report.circuit_charts import circuit_figures
from homolog.report.circuit_records import CircuitRecords, read_circuits
from homolog.report.explorer import explore
from homolog.report.findings import findings, homolog_words
from homolog.report.meaning import meaning
from homolog.report.overview import PairPage
from homolog.report.run_charts import stage_figure
from homolog.report.templating import environment, template_text

CITATION = (
    "Junxuan Wang, Xuyang Ge, Wentao Shu, Qiong Tang, Yunhua Zhou, Zhengfu He, Xipeng Qiu. "
    "Towards Universality: Studying Mechanistic Similarity Across Language Model Architectures. "
    "ICLR 2025. arXiv:2410.06672."
)
MATCH_FILES = (
    ("matches.parquet", "one row a feature"),
    ("layers.parquet", "one row a layer pair"),
    ("summary.parquet", "one row a comparison, direction and stratum"),
    ("saes.parquet", "one row a dictionary"),
    ("shared.parquet", "one row an ordered pair of models, with its verdict"),
)
VARIANCE_FILE = ("variance.parquet", "one row a model and factor")
CIRCUIT_FILES = (
    ("circuits.parquet", "one row a model and its circuit"),
    ("effects.parquet", "one row a patch and metric"),
    ("roles.parquet", "one row a part of a circuit"),
    ("offsets.parquet", "one row a place and offset"),
    ("edges.parquet", "one row an edge of discovery"),
)
RUN_FILE = ("run.json", "recipe, versions, stages, checksums")


def write_report(run_path: Path | str) -> Path:
    """Build run/report/ from the tables of the run folder; returns the path of its index.html.

    Writes index.html (and beside it a page a pair for more than two models, and circuits.html for a
    comparison with circuits), figures/NAME.svg, .png and .vl.json (figures/pair-A--B/ for pairs),
    and assets/; an earlier report is replaced.  Raises `InputError` when run.json or a table is
    missing or unusable, or nothing can be written there.
    """
    folder = RunFolder(Path(run_path))
    folder.require_whole(*folder.told)
    circuits = read_circuits(run_path)
    alone = circuits is not None and not any(
        (folder.path / name).is_file() for name, _ in MATCH_FILES
    )
    records = None if alone else read_study(run_path)
    final = folder.report_folder
    building = final.with_name(f"{PARTIAL_PREFIX}{os.getpid()}-report")
    with user_errors(final):
        _remove_abandoned(final.parent)
        try:
            building.mkdir()
            _build(records, circuits, building)
            _replace_folder(building, final)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return final / "index.html"


def _build(records: StudyRecords | None, circuits: CircuitRecords | None, folder: Path) -> None:
    """Write pages, figures and assets into `folder`; tables of one pair at a time are in memory."""
    (folder / "assets").mkdir()
    for name in ("report.css", "report.js"):
        (folder / "assets" / name).write_text(template_text(name), "utf-8")
    (folder / "assets" / "vega.js").write_text(export.vega_script(), "utf-8")
    drawn = circuit_figures(circuits) if circuits is not None else []
    if records is None:
        assert circuits is not None
        stages = stage_figure(circuits)
        figures = [*drawn, *([stages] if stages is not None else [])]
        return _write(folder, "index.html", render_circuits(circuits, figures, alone=True), figures)
    explore(records, folder)
    summary = [*run_figures(records), *(figure for figure in drawn if figure.name == "circuits")]
    if len(records.compared) == 2:
        of_pair = read_pair(records.path)
        figures = [*pair_figures(of_pair), *summary]
        _write(folder, "index.html", render(of_pair, figures, circuits), figures)
    else:
        pages = overview.pair_pages(records)
        for page in pages:
            of_pair = read_pair(records.path, page.pair)
            figures = pair_figures(of_pair)
            _write(folder, page.file, render_pair(of_pair, figures, page), figures, page.figures)
        _write(folder, "index.html", render_overview(records, summary, pages, circuits), summary)
    if circuits is not None:
        _write(folder, "circuits.html", render_circuits(circuits, drawn, alone=False), drawn)


def _write(
    folder: Path, name: str, text: str, figures: list[Figure], place: str = "figures"
) -> None:
    (folder / name).write_text(text, "utf-8")
    (folder / place).mkdir(parents=True, exist_ok=True)
    for figure in figures:
        export.save_figure(figure.spec, folder / place, figure.name)


def _remove_abandoned(folder: Path) -> None:
    """Remove what builds left behind whose process has ended, and what this process left."""
    for found in folder.glob(f"{PARTIAL_PREFIX}*-report*"):
        owner = found.name.removeprefix(PARTIAL_PREFIX).split("-")[0]
        if owner.isdigit() and int(owner) != os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(owner), 0)
                continue
        shutil.rmtree(found, ignore_errors=True)


def _replace_folder(new: Path, final: Path) -> None:
    """Rename `new` to `final`; an existing folder steps aside first and comes back if that fails."""
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


def _rendered(template: str, names: Iterable[str], **values: Any) -> str:
    """The template with these values, escaped; `names` are the models that the filter `named` keeps
    on one line.
    """
    pages, kept = environment(), tuple(names)
    pages.filters.update(percent=wording.percent, named=lambda text: tables.named(text, kept))
    pages.policies["json.dumps_kwargs"] = {
        "sort_keys": False,
        "separators": (",", ":"),
        "ensure_ascii": False,
    }
    values = {"swap": theme.SWAP, "citation": CITATION, "figure_folder": "figures"} | values
    return pages.get_template(template).render(**values)


def render(
    records: PairRecords, figures: list[Figure], circuits: CircuitRecords | None = None
) -> str:
    """The text of index.html for two models; everything that comes from the run is escaped."""
    return _rendered(
        "pair.html.j2",
        records.pair,
        **_about_run(records),
        **_of_pair(records),
        **_of_models(records, circuits),
        figures={figure.name: figure for figure in figures},
        warnings=tables.warnings_of(records),
        overview=None,
    )


def render_pair(records: PairRecords, figures: list[Figure], page: PairPage) -> str:
    """The text of the page of one pair of several; everything that comes from the run is escaped."""
    return _rendered(
        "pair.html.j2",
        records.pair,
        **_of_pair(records),
        name=records.name,
        figures={figure.name: figure for figure in figures},
        figure_folder=page.figures,
        circuits=None,
        overview=overview.title(records),
    )


def render_overview(
    records: StudyRecords,
    figures: list[Figure],
    pages: list[PairPage],
    circuits: CircuitRecords | None = None,
) -> str:
    """The text of index.html for more than two models; everything that comes from the run is
    escaped.
    """
    return _rendered(
        "overview.html.j2",
        records.compared,
        **_about_run(records),
        **_of_models(records, circuits),
        title=overview.title(records),
        figures={figure.name: figure for figure in figures},
        shared=overview.shared_table(records),
        pages=pages,
        warnings=tables.noted_warnings(records),
    )


def _of_pair(records: PairRecords) -> dict[str, Any]:
    """What the page of two models says of them."""
    return {
        "pair": records.pair,
        "found": findings(records),
        "homolog": homolog_words(records),
        "comparisons": [
            comparisons.comparison_of(name)
            for name in comparisons.in_order(
                records.summary.get_column("comparison").unique().to_list()
            )
        ],
        "summary": [tables.summary_table(records, stratum) for stratum in tables.strata(records)],
        "meaning": meaning(records),
        "explorer": address(*records.pair) if records.explored else None,
        "best": [tables.best_shared(records, side) for side in "AB"],
        "enough": tables.ENOUGH_TOKENS,
        "own_dictionaries": tables.dictionary_table(records, own=True),
        "other_dictionaries": tables.dictionary_table(records, own=False),
    }


def _of_models(records: StudyRecords, circuits: CircuitRecords | None) -> dict[str, Any]:
    """What index.html says of all models, and its files."""
    return {
        "name": records.name,
        "models": tables.model_table(records),
        "corpus": tables.corpus_rows(records),
        "circuits": None if circuits is None else _circuit_summary(circuits),
        "files": [
            *MATCH_FILES,
            *([] if records.variance.is_empty() else [VARIANCE_FILE]),
            *(CIRCUIT_FILES if circuits is not None else ()),
            RUN_FILE,
        ],
    }


def render_circuits(records: CircuitRecords, figures: list[Figure], *, alone: bool) -> str:
    """The text of the circuits' page, which is a run's only one where `alone`; all from the run is
    escaped.
    """
    return _rendered(
        "circuits.html.j2",
        records.models,
        **_about_run(records),
        name=records.name,
        alone=alone,
        title=_title(records),
        figures={figure.name: figure for figure in figures},
        circuits=_circuit_summary(records),
        offsets=circuit_tables.offset_table(records),
        correlations=circuit_tables.correlation_table(records),
        edges=circuit_tables.edge_tables(records),
        effects=circuit_tables.effect_tables(records),
        misleading=circuit_words.misleading(records),
        methods=circuit_words.methods(records),
        warnings=tables.noted_warnings(records),
        files=[*CIRCUIT_FILES, RUN_FILE],
    )


def _about_run(records: Records) -> dict[str, Any]:
    """What every page says of the run itself."""
    recipe = records.run.get("recipe")
    return {
        "stages": tables.stage_table(records),
        "run_rows": tables.run_rows(records),
        "recipe": wording.as_toml(recipe if isinstance(recipe, Mapping) else {}),
    }


def _circuit_summary(records: CircuitRecords) -> dict[str, Any]:
    """What both pages say of the circuits."""
    return {
        "found": circuit_words.circuit_findings(records),
        "task": circuit_words.task_words(records),
        "models": records.models,
        "able": records.able,
        "roles": circuit_tables.role_rows(records),
        "ability": circuit_tables.ability_table(records),
    }


def _title(records: CircuitRecords) -> str:
    names = records.models
    if len(names) == 1:
        return f"How does {names[0]} repeat what it has seen?"
    several = wording.listed(names) if len(names) == 2 else f"{len(names)} models"
    return f"How do {several} repeat what they have seen?"
