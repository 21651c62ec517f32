"""The page: tables and figures of a run as one folder that opens from the file system.

`write_report` builds the whole folder beside its final place and then renames it, so that a reader sees the
old page or the new one.  The same run folder gives the same bytes: the page carries no time of its own and
leaves out the stage that builds it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup

from homolog.report import aggregate, export, theme, wording
from homolog.report.charts import Figure, all_figures
from homolog.report.findings import (
    Row,
    failed_controls,
    findings,
    headline_sentences,
    interval,
    ordered_summary,
)
from homolog.report.records import RunRecords, read_run
from homolog.report.wording import MISSING
from homolog.storage.atomic import PARTIAL_PREFIX, user_errors
from homolog.storage.run_folder import RunFolder

CITATION = (
    "Junxuan Wang, Xuyang Ge, Wentao Shu, Qiong Tang, Yunhua Zhou, Zhengfu He, Xipeng Qiu. "
    "Towards Universality: Studying Mechanistic Similarity Across Language Model Architectures. "
    "ICLR 2025. arXiv:2410.06672."
)
BEST_ROWS = 12
ENOUGH_TOKENS = 30  # a feature active at fewer tokens can correlate perfectly by chance

STRATA = {
    "all": "All features",
    "alive": "Alive features only",
    "frequent": "Frequent features only",
}


@dataclass(frozen=True)
class Table:
    """A table as the template draws it: cells are text, escaped there; `numeric` columns align right."""

    caption: str
    columns: list[str]
    rows: list[list[str]]
    numeric: frozenset[int] = frozenset()
    strong: frozenset[int] = field(default_factory=frozenset)  # indices of rows to stress


def write_report(run_path: Path | str) -> Path:
    """Build run/report/ from the tables of the run folder; returns the path of its index.html.

    Writes index.html, figures/NAME.svg, .png and .vl.json, and assets/; an earlier report is replaced.
    Raises `InputError` when run.json or a table is missing or unusable, or when nothing can be written there.
    """
    records = read_run(run_path)
    final = RunFolder(Path(run_path)).report_folder
    building = final.with_name(f"{PARTIAL_PREFIX}{os.getpid()}-report")
    with user_errors(final):
        _remove_abandoned(final.parent)
        try:
            building.mkdir()
            _build(records, building)
            _replace_folder(building, final)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return final / "index.html"


def _build(records: RunRecords, folder: Path) -> None:
    figures = all_figures(records)
    (folder / "figures").mkdir()
    (folder / "assets").mkdir()
    for figure in figures:
        export.save_figure(figure.spec, folder / "figures", figure.name)
    for name in ("report.css", "report.js"):
        (folder / "assets" / name).write_text(_template_text(name), "utf-8")
    (folder / "assets" / "vega.js").write_text(export.vega_script(), "utf-8")
    (folder / "index.html").write_text(render(records, figures), "utf-8")


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


def _template_text(name: str) -> str:
    return resources.files("homolog.report").joinpath("templates", name).read_text("utf-8")


def render(records: RunRecords, figures: list[Figure]) -> str:
    """The text of index.html; everything that comes from the run is escaped."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_template_text),
    )
    environment.filters.update(percent=wording.percent, named=lambda text: named(text, records.pair))
    environment.policies["json.dumps_kwargs"] = {
        "sort_keys": False,
        "separators": (",", ":"),
        "ensure_ascii": False,
    }
    found = findings(records)
    return environment.get_template("index.html.j2").render(
        name=records.name,
        pair=records.pair,
        found=found,
        sentences=headline_sentences(found.headlines),
        intervals={line.side: share_interval(line.row) for line in found.headlines},
        figures={figure.name: figure for figure in figures},
        swap=theme.SWAP,
        close=wording.CLOSE,
        comparisons=[
            wording.comparison_of(name)
            for name in wording.in_order(records.summary.get_column("comparison").unique().to_list())
        ],
        summary=[summary_table(records, stratum) for stratum in _strata(records)],
        best=[best_shared(records, side) for side in "AB"],
        enough=ENOUGH_TOKENS,
        own_dictionaries=dictionary_table(records, own=True),
        other_dictionaries=dictionary_table(records, own=False),
        models=model_table(records),
        corpus=corpus_rows(records),
        stages=stage_table(records),
        run_rows=run_rows(records),
        recipe=wording.as_toml(_mapping(records.run.get("recipe"))),
        warnings=warnings_of(records),
        citation=CITATION,
    )


def warnings_of(records: RunRecords) -> list[str]:
    """Warnings the run recorded (else controls that miss their gates), and files it had to build again."""
    noted = [str(item) for item in records.run.get("warnings") or []]
    rebuilt = [f"Built again: {item}" for item in records.run.get("rebuilt") or []]
    return [*noted, *rebuilt, *(failed_controls(records) if not noted else [])]


def share_interval(row: Row) -> str:
    """The interval of the share of close partners where the summary has one, else an empty text."""
    low, high = row.get("share_above_07_lo"), row.get("share_above_07_hi")
    both = wording.is_number(low) and wording.is_number(high)
    return f"{wording.percent(low)} to {wording.percent(high)}" if both else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _strata(records: RunRecords) -> list[str]:
    found = records.summary.get_column("stratum").unique().to_list()
    return sorted(found, key=lambda name: (list(STRATA).index(name) if name in STRATA else 9, name))


def summary_table(records: RunRecords, stratum: str) -> Table:
    """Every comparison of a stratum, every direction."""
    chosen = [row for row in ordered_summary(records) if row["stratum"] == stratum]
    rows = [
        [
            wording.comparison_of(row["comparison"]).plain,
            f"{row['model']}\n→ {row['best_model']}",
            wording.integer(row["n_features"]),
            wording.integer(row["n_undefined"]),
            with_interval(row, "mean"),
            with_interval(row, "median"),
            wording.percent(row["share_above_07"]),
        ]
        for row in chosen
    ]
    columns = [
        "Comparison",
        "Features of → looked for in",
        "Features",
        "Undefined",
        "Mean, 95% interval",
        "Median, 95% interval",
        f"r > {wording.CLOSE}",
    ]
    strong = frozenset(place for place, row in enumerate(chosen) if row["comparison"] == "main")
    return Table(STRATA.get(stratum, stratum), columns, rows, frozenset(range(2, 7)), strong)


def with_interval(row: Row, statistic: str) -> str:
    """A statistic and, on a second line, its interval, three digits each."""
    return f"{wording.number(row[statistic], 3)}\n{interval(row, statistic, 3)}"


def named(text: str, names: tuple[str, ...]) -> Markup:
    """`text` escaped, with each model name that is short enough kept on one line."""
    parts = re.split("(" + "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) + ")", text)
    return Markup("").join(
        Markup('<span class="name">{}</span>').format(part) if part in names and len(part) < 24 else part
        for part in parts
    )


def best_shared(records: RunRecords, side: str) -> Table:
    """The closest pairs of the main comparison among features active at `ENOUGH_TOKENS` tokens or more."""
    main = records.matches.filter((pl.col("comparison") == "main") & pl.col("r").is_finite())
    own = main.filter((pl.col("side") == side) & (pl.col("n_active") >= ENOUGH_TOKENS))
    own = own.sort(["r", "layer", "feature"], descending=[True, False, False]).head(BEST_ROWS)
    back = {
        (row["layer"], row["feature"]): (row["best_layer"], row["best_feature"])
        for row in main.filter(pl.col("side") == "BA"["AB".index(side)])
        .select("layer", "feature", "best_layer", "best_feature")
        .iter_rows(named=True)
    }
    rows = [
        [
            f"{row['layer']} / {row['feature']}",
            f"{row['best_layer']} / {row['best_feature']}",
            wording.number(row["r"], 3),
            f"{100 * row['freq']:.2f}%",
            "yes" if back.get((row["best_layer"], row["best_feature"])) == (row["layer"], row["feature"]) else "no",
        ]
        for row in own.iter_rows(named=True)
    ]
    columns = [records.model_of(side), records.partner_of(side), "r", "Active", "Mutual"]
    return Table(f"Features of {records.model_of(side)}", columns, rows, frozenset({2, 3}))


def dictionary_table(records: RunRecords, own: bool) -> Table:
    """Quality of the dictionaries compared (`own`), or of all others."""
    rows = []
    for row in records.saes.sort("model", "label", "layer").iter_rows(named=True):
        if (row["model"] in records.pair and row["label"] == "sae") != own:
            continue
        name = row["model"] if row["label"] == "sae" else f"{row['model']} ({row['label']})"
        gate = "passes" if row["passed"] else f"fails: {row['reason'] or 'no reason recorded'}"
        rows.append(
            [
                name,
                str(row["layer"]),
                f"{row['kind']}, {wording.integer(row['d_sae'])}",
                wording.number(row["explained_variance"], 3),
                wording.number(row["l0"], 1),
                wording.percent(row["dead_share"]),
                wording.number(row["loss_recovered"], 3),
                gate,
            ]
        )
    columns = [
        "Model",
        "Block",
        "Kind, features",
        "Explained variance",
        "L0",
        "Dead",
        "Loss recovered",
        "Gates",
    ]
    return Table(
        "The dictionaries compared" if own else "The dictionaries of the controls",
        columns,
        rows,
        frozenset({1, 3, 4, 5, 6}),
    )


def model_table(records: RunRecords) -> Table:
    """The models of the run."""
    rows = [
        [
            str(model.get("name") or MISSING),
            str(model.get("role") or MISSING),
            str(model.get("architecture") or MISSING),
            wording.integer(model.get("n_layers")),
            wording.integer(model.get("d_model")),
            wording.integer(model.get("n_parameters")),
            wording.number(model.get("heldout_loss"), 3),
        ]
        for model in records.models
    ]
    columns = ["Model", "Role", "Architecture", "Blocks", "d_model", "Parameters", "Held-out loss (nats)"]
    return Table("The models", columns, rows, frozenset({3, 4, 5, 6}))


def stage_table(records: RunRecords) -> Table:
    """Wall time and peak memory of each stage, and their total and maximum."""
    stages = aggregate.stage_times(records)
    rows = [
        [row["stage"], row["status"], wording.seconds(row["seconds"]), wording.size(row["peak_bytes"])]
        for row in stages
    ]
    spent = [row["seconds"] for row in stages if wording.is_number(row["seconds"])]
    peaks = [row["peak_bytes"] for row in stages if wording.is_number(row["peak_bytes"])]
    if spent:
        rows.append(["all stages", "", wording.seconds(sum(spent)), wording.size(max(peaks, default=None))])
    strong = frozenset({len(rows) - 1}) if spent else frozenset()
    return Table("Stages", ["Stage", "Status", "Time", "Peak memory"], rows, frozenset({2, 3}), strong)


def corpus_rows(records: RunRecords) -> list[tuple[str, str]]:
    """Facts of the token stream that every model saw."""
    corpus = _mapping(records.run.get("corpus"))
    names = {
        "n_documents": "Documents",
        "n_windows": "Windows",
        "context": "Tokens a window",
        "n_tokens": "Tokens",
    }
    rows = [(title, wording.integer(corpus[key])) for key, title in names.items() if key in corpus]
    if "sources" in corpus:
        sources = corpus["sources"]
        rows.append(("Sources", ", ".join(map(str, sources)) if isinstance(sources, list | tuple) else str(sources)))
    rows += [
        (title, str(corpus[key]))
        for key, title in (("tokenizer", "Tokenizer"), ("hash", "Hash of the stream"))
        if key in corpus
    ]
    return rows


def run_rows(records: RunRecords) -> list[tuple[str, str]]:
    """Where and with what the run was made."""
    run = records.run
    rows = [
        (title, str(run[key]))
        for key, title in (("recipe_hash", "Recipe hash"), ("git_commit", "Git commit"), ("device", "Device"))
        if run.get(key)
    ]
    rows += [
        (
            f"Machine: {key.removesuffix('_bytes')}",
            wording.size(value) if key.endswith("_bytes") else str(value),
        )
        for key, value in _mapping(run.get("machine")).items()
    ]
    rows += [(f"Version: {key}", str(value)) for key, value in _mapping(run.get("versions")).items()]
    return rows
