"""The explorer as one folder that opens from the file system and asks for nothing else.

    index.html       the list of features, and the page of each by its address after `#`
    assets/          style and scripts
    data/manifest.js models, pairs, columns
    data/columns/    what the list sorts and filters by (columns.py)
    data/features/   what the page of a feature shows (details.py)
    data/text/       the text of its contexts (sheets.py)
    data/overlay/    what both do on the same text (overlays.py)
    data/map/        a place in the plane for each feature (places.py)
    data/flow/       how features go on through the layers (flows.py)
    data/words/      the text index (words.py)

Scripts put text of models and corpora on the page as text nodes alone, so that markup in a corpus
shows as markup.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from homolog.analyses.records import StudyRecords
from homolog.charts.links import FOLDER
from homolog.corpus import TokenText
from homolog.record.atomic import write_text
from homolog.record.run_folder import RunFolder
from homolog.record.table import Table
from homolog.record.tables import (
    CAUSAL,
    CONTEXTS,
    FEATURES,
    FLOW,
    LISTS,
    MAP,
    MATCHES,
    OVERLAY,
    RATINGS,
    SCATTER,
    WITNESSES,
)
from homolog.report.explorer.columns import ColumnFiles
from homolog.report.explorer.contexts import Spelling, read_contexts
from homolog.report.explorer.details import CHUNK, write_details
from homolog.report.explorer.flows import write_flows
from homolog.report.explorer.overlays import write_overlays
from homolog.report.explorer.packing import write_plain
from homolog.report.explorer.places import write_places
from homolog.report.explorer.reasons import with_reasons
from homolog.report.explorer.rows import (
    FEATURE,
    ModelRows,
    main_matches,
    main_pairs,
    of_pair,
    rows_of,
)
from homolog.report.explorer.sheets import Sheets
from homolog.report.explorer.witnesses import with_witnesses
from homolog.report.explorer.words import WordIndex
from homolog.report.templating import environment, model_colours, template_text

OfLayer = Callable[[str, int], pl.DataFrame | None]
SCRIPTS = (
    "explorer-data.js",
    "explorer-reasons.js",
    "explorer-contexts.js",
    "explorer-cards.js",
    "explorer-map.js",
    "explorer-overlay.js",
    "explorer-flow.js",
    "explorer-list.js",
    "explorer-feature.js",
    "explorer.js",
)


@dataclass(frozen=True)
class Source:
    """What an explorer is made of.  Columns that are missing or null are left out of it."""

    features: pl.DataFrame
    """One row per feature, as in features.parquet."""

    matches: pl.LazyFrame
    """As matches.parquet, of which the rows of the comparison main are taken."""

    contexts: OfLayer
    """The examples of the features of a layer, by model and layer, or None."""

    vocabulary: Sequence[TokenText]
    """What each token id of the contexts stands for."""

    n_layers: Mapping[str, int]
    """By model, in the order shown."""

    scatter: OfLayer = lambda model, layer: None
    """Activations of features and their best partners at the same tokens, by model and layer, or
    None: columns feature, scatter_x and scatter_y (list[f32]), and best_model for more than two
    models."""

    overlay: OfLayer = lambda model, layer: None
    """What the other of a feature and its best partner does on the examples of either, by model and
    layer, or None: columns of the table `overlay`."""

    places: pl.DataFrame | None = None
    """Where features stand on the map, as map.parquet."""

    flow: pl.DataFrame | None = None
    """How features go on through the layers of their model, as flow.parquet."""

    witnesses: pl.DataFrame | None = None
    """What each witness says of a feature and another model, as witnesses.parquet."""

    name: str = ""
    """Of the run."""

    vocabularies: Mapping[str, Sequence[TokenText]] = field(default_factory=dict)
    """Those of the models whose token ids stand for something else, by model."""

    controls: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of each model's untrained twin and second seed, in matches of other comparisons."""


def source_of(records: StudyRecords) -> Source:
    """The source of a run that has examples of its features.

    To these come what a language model said of some, how far the effect of a feature agrees with
    that of its partner (causal_r), and how much of it all features of another model predict.
    """
    keys, run, features = list(FEATURE), records.folder, records.table(FEATURES)
    said = ("explanation", "complexity", "consistency_rated", "detection", "partner_detection")
    agreement = pl.col("ablate_r").fill_nan(None).mean().cast(pl.Float32)
    matched = records.table(CAUSAL).filter("matched")
    exclusive = records.table(LISTS).filter(list="exclusive")
    for extra in (
        records.table(RATINGS).select(*keys, *said),
        matched.group_by(keys, maintain_order=True).agg(causal_r=agreement),
        exclusive.group_by(keys, maintain_order=True).agg(pl.col("exclusive_r2").max()),
    ):
        features = features.join(extra, on=keys, how="left", maintain_order="left", validate="1:1")
    n_layers = dict(features.group_by("model").agg(pl.col("layer").max() + 1).iter_rows())
    n_layers |= {m["name"]: m["n_layers"] for m in records.models if m.get("n_layers")}
    return Source(
        features,
        MATCHES.scan(run.table(MATCHES)),
        partial(_of_layer, run, CONTEXTS),
        run.token_texts(""),
        {model: int(n_layers[model]) for model in records.compared},
        partial(_of_layer, run, SCATTER),
        partial(_of_layer, run, OVERLAY),
        records.table(MAP) if records.has(MAP) else None,
        records.table(FLOW) if records.has(FLOW) else None,
        records.table(WITNESSES) if records.has(WITNESSES) else None,
        name=records.name,
        vocabularies={
            model: run.token_texts(text)
            for model in records.compared
            if (text := run.text_of(model))
        },
        controls=records.controls,
    )


def _of_layer(run: RunFolder, table: Table, model: str, layer: int) -> pl.DataFrame | None:
    file = run.table(table, model, layer)
    return table.read(file) if file.is_file() else None


@dataclass(frozen=True)
class ModelTables:
    """The tables of a model in the order of its rows; matches by the place of the other model."""

    place: int
    rows: ModelRows
    features: pl.DataFrame
    matches: Mapping[int, pl.DataFrame]


def explore(records: StudyRecords, report: Path) -> None:
    """Write the explorer into the report's folder, if the run has examples of its features."""
    if records.explored:
        write_explorer(report / FOLDER, source_of(records))


def write_explorer(folder: Path, source: Source) -> Path:
    """Write the explorer into `folder`, replacing an older one; returns the path of its index.html.

    One layer's contexts are in memory at a time; the same input gives the same bytes.  Raises
    `InputError` for tables that do not fit together.
    """
    models = rows_of(source.features, source.n_layers)
    matches = with_reasons(main_matches(source.matches), source.matches, source.controls)
    matches = with_witnesses(matches, source.witnesses)
    pairs = main_pairs(matches, models)
    shutil.rmtree(folder / "data", ignore_errors=True)
    _write_page(folder, source.name)
    columns, shared = ColumnFiles(folder), Sheets(Spelling(source.vocabulary))
    words, texts, overlaid = [], list[Sheets](), list[str]()
    for place, rows in enumerate(models):
        to_others = {j: of_pair(matches, rows, models[j]) for i, j in pairs if i == place}
        features = source.features.filter(model=rows.model).sort("layer", "feature")
        model = ModelTables(place, rows, features, to_others)
        columns.add_model(place, model.features)
        for other, table in to_others.items():
            columns.add_pair(place, other, table, models[other])
        own = source.vocabularies.get(rows.model)
        texts.append(shared if own is None else Sheets(Spelling(own)))
        first_words, layers = _write_layers(folder, source, model, texts[-1])
        words.append(first_words)
        overlaid += layers
    text = {sheets: sheets.write(folder, i) for i, sheets in enumerate(dict.fromkeys(texts))}
    known = {
        "models": [
            {
                "name": rows.model,
                "sizes": list(rows.sizes),
                "words": first_words,
                "text": text[sheets],
                "tokens": "top_tokens" in source.features.columns,
            }
            for rows, first_words, sheets in zip(models, words, texts, strict=True)
        ],
        "pairs": [list(pair) for pair in pairs],
        "columns": columns.written(),
        "overlaid": overlaid,
        "mapped": source.places is not None and write_places(folder, source.places, models),
        "flows": [] if source.flow is None else write_flows(folder, source.flow, models),
        "chunk": CHUNK,
        "classified": "homolog" in matches.columns,
        "against": columns.against,
        "opens_on_homologs": columns.has_homologs,
    }
    write_plain(folder, "manifest", known)
    return folder / "index.html"


def _write_layers(
    folder: Path, source: Source, model: ModelTables, sheets: Sheets
) -> tuple[list[str], list[str]]:
    """Write data/features/, data/overlay/ and data/words/ of a model; its text goes to `sheets`.

    Returns what `WordIndex.write` does, and the "MODEL-LAYER" that are in data/overlay/.
    """
    name, names, overlaid = model.rows.model, list(source.n_layers), []
    with TemporaryDirectory(prefix="homolog-words-") as scratch:
        index = WordIndex(Path(scratch))
        begins = zip(model.rows.starts.tolist(), model.rows.sizes, strict=True)
        for layer, (start, size) in enumerate(begins):
            if not size:
                continue
            features = model.features[start : start + size]
            matches = {j: table[start : start + size] for j, table in model.matches.items()}
            given = source.contexts(name, layer)
            contexts = None
            if given is not None:
                contexts = sheets.lay(read_contexts(given, size, sheets.spelling))
            scatters = _by_partner(source.scatter(name, layer), matches, names)
            place = f"{model.place}-{layer}"
            write_details(folder, place, features, matches, contexts, scatters)
            if overlays := _by_partner(source.overlay(name, layer), matches, names):
                write_overlays(folder, place, size, overlays)
                overlaid.append(place)
            index.add_layer(start, features, contexts)
        return index.write(folder, model.place), overlaid


def _by_partner(
    table: pl.DataFrame | None, others: Iterable[int], names: Sequence[str]
) -> dict[int, pl.DataFrame]:
    """The rows about each other model, by its place; none without the table."""
    return {} if table is None else {j: table.filter(best_model=names[j]) for j in others}


def _write_page(folder: Path, name: str) -> None:
    """index.html and assets/."""
    page = environment().get_template("explorer.html.j2").render(name=name, scripts=SCRIPTS)
    write_text(folder / "index.html", page)
    for file in (*SCRIPTS, "report.css"):
        write_text(folder / "assets" / file, template_text(file))
    write_text(folder / "assets" / "explorer.css", template_text("explorer.css") + model_colours())
