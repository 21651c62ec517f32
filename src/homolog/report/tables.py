"""The tables of the page, and what it says of the run: cells are text, which the template escapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import polars as pl
from markupsafe import Markup

from homolog.analyses.records import PairRecords, Records, StudyRecords
from homolog.charts import words as wording
from homolog.charts.links import address
from homolog.charts.shown_table import ShownTable
from homolog.charts.words import MISSING
from homolog.record import comparisons
from homolog.report import aggregate
from homolog.report.findings import Row, failed_controls, interval, ordered_summary

BEST_ROWS = 12
ENOUGH_TOKENS = 30  # a feature active at fewer tokens can correlate perfectly by chance

STRATA = {
    "all": "All features",
    "alive": "Alive features only",
    "frequent": "Frequent features only",
}


def warnings_of(records: PairRecords) -> list[str]:
    """Warnings the run recorded (else controls that miss their gates), and files it had to build
    again.
    """
    noted = noted_warnings(records)
    return noted if records.run.get("warnings") else [*noted, *failed_controls(records)]


def noted_warnings(records: Records) -> list[str]:
    """What failed, warnings the run recorded, and files it had to build again."""
    failed = mapping(records.run.get("failed"))
    without = [
        f"Not part of this report, for it failed: {work} ({mapping(why).get('error')})"
        for work, why in failed.items()
    ]
    rebuilt = [f"Built again: {item}" for item in records.run.get("rebuilt") or []]
    return [*without, *(str(item) for item in records.run.get("warnings") or []), *rebuilt]


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def strata(records: PairRecords) -> list[str]:
    found = records.summary.get_column("stratum").unique().to_list()
    return sorted(found, key=lambda name: (list(STRATA).index(name) if name in STRATA else 9, name))


def summary_table(records: PairRecords, stratum: str) -> ShownTable:
    """Every comparison of a stratum, every direction."""
    chosen = [row for row in ordered_summary(records) if row["stratum"] == stratum]
    rows = [
        [
            comparisons.comparison_of(row["comparison"]).plain,
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
    return ShownTable(STRATA.get(stratum, stratum), columns, rows, frozenset(range(2, 7)), strong)


def with_interval(row: Row, statistic: str) -> str:
    """A statistic and, on a second line, its interval, three digits each."""
    return f"{wording.number(row[statistic], 3)}\n{interval(row, statistic, 3)}"


def named(text: str, names: tuple[str, ...]) -> Markup:
    """`text` escaped, with each model name that is short enough kept on one line."""
    parts = re.split(
        "(" + "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) + ")", text
    )
    return Markup("").join(
        Markup('<span class="name">{}</span>').format(part)
        if part in names and len(part) < 24
        else part
        for part in parts
    )


def best_shared(records: PairRecords, side: str) -> ShownTable:
    """The closest homologs among features active at `ENOUGH_TOKENS` tokens or more; matches where
    none is judged.
    """
    own = records.matches.filter(
        (pl.col("comparison") == "main")
        & (pl.col("side") == side)
        & pl.col("r").is_finite()
        & (pl.col("n_active") >= ENOUGH_TOKENS)
    )
    if own.get_column("homolog").is_not_null().any():
        own = own.filter(pl.col("homolog"))
    own = own.sort(["r", "layer", "feature"], descending=[True, False, False]).head(BEST_ROWS)
    rows = [
        [
            f"{row['layer']} / {row['feature']}",
            f"{row['best_layer']} / {row['best_feature']}",
            wording.number(row["r"], 3),
            wording.number(row["excess"], 3),
            wording.chance(row["q"]),
            f"{100 * row['freq']:.2f}%",
            _mark(row["mutual"]),
            _mark(
                row["partner_layer"] == row["best_layer"]
                and row["partner_feature"] == row["best_feature"]
            ),
            _mark(row["stable"]),
        ]
        for row in own.iter_rows(named=True)
    ]
    columns = [
        records.model_of(side),
        records.partner_of(side),
        "r",
        "Excess",
        "q",
        "Active",
        "Mutual",
        "One-to-one",
        "Stable",
    ]
    return ShownTable(
        f"Features of {records.model_of(side)}",
        columns,
        rows,
        frozenset(range(2, 6)),
        links=feature_links(records, side, own),
    )


def feature_links(records: PairRecords, side: str, rows: pl.DataFrame) -> list[str]:
    """The address of each feature of the rows (layer, feature) in the explorer; none where there is
    no explorer.
    """
    models = (records.model_of(side), records.partner_of(side))
    places = rows.select("layer", "feature").iter_rows() if records.explored else ()
    return [address(*models, feature=(int(layer), int(feature))) for layer, feature in places]


def _mark(holds: bool | None) -> str:
    return MISSING if holds is None else "yes" if holds else "no"


def dictionary_table(records: PairRecords, own: bool) -> ShownTable:
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
                wording.percent(row.get("sink_share")),
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
        "Variance in sinks",
        "Gates",
    ]
    return ShownTable(
        "The dictionaries compared" if own else "The dictionaries of the controls",
        columns,
        rows,
        frozenset({1, 3, 4, 5, 6, 7}),
    )


def model_table(records: StudyRecords) -> ShownTable:
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
    columns = [
        "Model",
        "Role",
        "Architecture",
        "Blocks",
        "d_model",
        "Parameters",
        "Held-out loss (nats)",
    ]
    return ShownTable("The models", columns, rows, frozenset({3, 4, 5, 6}))


def stage_table(records: Records) -> ShownTable:
    """Wall time and peak memory of each stage, and their total and maximum."""
    stages = aggregate.stage_times(records)
    rows = [
        [
            row["stage"],
            row["status"],
            wording.seconds(row["seconds"]),
            wording.size(row["peak_bytes"]),
        ]
        for row in stages
    ]
    spent = [row["seconds"] for row in stages if wording.is_number(row["seconds"])]
    peaks = [row["peak_bytes"] for row in stages if wording.is_number(row["peak_bytes"])]
    if spent:
        rows.append(
            ["all stages", "", wording.seconds(sum(spent)), wording.size(max(peaks, default=None))]
        )
    strong = frozenset({len(rows) - 1}) if spent else frozenset()
    return ShownTable(
        "Stages", ["Stage", "Status", "Time", "Peak memory"], rows, frozenset({2, 3}), strong
    )


def corpus_rows(records: Records) -> list[tuple[str, str]]:
    """Facts of the token stream that every model saw."""
    corpus = mapping(records.run.get("corpus"))
    names = {
        "n_documents": "Documents",
        "n_documents_empty": "Empty documents left out",
        "n_windows": "Windows",
        "context": "Tokens a window",
        "n_tokens": "Tokens",
    }
    rows = [(title, wording.integer(corpus[key])) for key, title in names.items() if key in corpus]
    if "masked" in corpus:
        rows.append(("Masked tokens", ", ".join(map(str, mapping(corpus["masked"]).values()))))
    if "sources" in corpus:
        sources = corpus["sources"]
        rows.append(
            (
                "Sources",
                ", ".join(map(str, sources)) if isinstance(sources, list | tuple) else str(sources),
            )
        )
    rows += [
        (title, str(corpus[key]))
        for key, title in (("tokenizer", "Tokenizer"), ("hash", "Hash of the stream"))
        if key in corpus
    ]
    return rows


def run_rows(records: Records) -> list[tuple[str, str]]:
    """Where and with what the run was made."""
    run = records.run
    rows = [
        (title, str(run[key]))
        for key, title in (
            ("recipe_hash", "Recipe hash"),
            ("git_commit", "Git commit"),
            ("device", "Device"),
        )
        if run.get(key)
    ]
    rows += [
        (
            f"Machine: {key.removesuffix('_bytes')}",
            wording.size(value) if key.endswith("_bytes") else str(value),
        )
        for key, value in mapping(run.get("machine")).items()
    ]
    rows += [(f"Version: {key}", str(value)) for key, value in mapping(run.get("versions")).items()]
    return rows
