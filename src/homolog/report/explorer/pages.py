"""The explorer as one folder that opens from the file system and asks for nothing else.

    index.html                      the list of features, and the page of each by its address after `#`
    assets/                         style and scripts
    data/manifest.js                models, pairs, columns
    data/columns/                   what the list sorts and filters by (columns.py)
    data/features/                  what the page of a feature shows (details.py)
    data/words/                     the text index (words.py)

Scripts put text of models and corpora on the page as text nodes alone, so that markup in a corpus
shows as markup.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from homolog.corpus import TokenText
from homolog.record.atomic import write_text
from homolog.report import theme
from homolog.report.explorer.columns import Rows, main_pairs, of_pair, rows_of, write_columns
from homolog.report.explorer.details import CHUNK, read_contexts, write_details
from homolog.report.explorer.packing import write_data
from homolog.report.explorer.spelling import Spelling
from homolog.report.explorer.words import WordIndex
from homolog.report.templating import environment, template_text

SCRIPTS = ("explorer-data.js", "explorer-list.js", "explorer-feature.js", "explorer.js")
Layer = Callable[[str, int], pl.DataFrame | None]


def write_explorer(
    folder: Path,
    features: pl.DataFrame,
    matches: pl.DataFrame,
    contexts: Layer,
    vocabulary: Sequence[TokenText],
    n_layers: Mapping[str, int],
    scatter: Layer | None = None,
    *,
    name: str = "",
    home: str | None = "../index.html",
) -> Path:
    """Write the explorer into `folder`, replacing an older one; returns the path of its index.html.

    `features`: one row a feature, as in features.parquet; `matches`: rows of matches.parquet, of
    which those of the comparison main are taken; `contexts(model, layer)`: the examples of a layer,
    or None; `vocabulary`: what each token id stands for; `n_layers`: by model, in the order shown.
    `scatter(model, layer)`, where given: columns feature, best_model (not needed for two models),
    scatter_x and scatter_y (list[f32]: activations of the feature and of its best partner at the
    same tokens), or None. `name`: of the run; `home`: address of the report, None for no link.
    Columns that are missing or null are left out.  One layer's contexts are in memory at a time;
    the same input gives the same bytes.  Raises `InputError` for tables that do not fit together.
    """
    rows = rows_of(features, n_layers)
    if "comparison" in matches.columns:
        matches = matches.filter(pl.col("comparison") == "main")
    pairs = main_pairs(matches, rows)
    shutil.rmtree(folder / "data", ignore_errors=True)
    _write_page(folder, name, home)
    columns = write_columns(folder, features, matches, rows)
    spelling, first_words = Spelling(vocabulary), []
    for place, model in enumerate(rows):
        own = features.filter(pl.col("model") == model.model).sort("layer", "feature")
        targets = {j: of_pair(matches, model, rows[j]) for i, j in pairs if i == place}
        with TemporaryDirectory(prefix="homolog-words-") as scratch:
            index = WordIndex(spelling, Path(scratch))
            for layer, (start, size) in enumerate(
                zip(model.starts.tolist(), model.sizes, strict=True)
            ):
                table = own[start : start + size]
                given = contexts(model.model, layer) if size else None
                shown = None if given is None else read_contexts(given, size, spelling)
                found = {j: of[start : start + size] for j, of in targets.items()}
                points = (
                    _scatters(scatter, model, layer, {j: rows[j].model for j in targets})
                    if scatter
                    else {}
                )
                write_details(folder, (place, layer), table, found, shown, points, spelling.texts)
                index.add_layer(start, table, shown)
            first_words.append(index.write(folder, place))
    models = [
        {
            "name": model.model,
            "sizes": list(model.sizes),
            "words": firsts,
            "tokens": "top_tokens" in features.columns,
        }
        for model, firsts in zip(rows, first_words, strict=True)
    ]
    known = {
        "models": models,
        "pairs": [list(pair) for pair in pairs],
        "columns": columns,
        "chunk": CHUNK,
        "judged": "homolog" in matches.columns,
    }
    write_data(folder, "manifest", known)
    return folder / "index.html"


def _scatters(
    scatter: Layer, model: Rows, layer: int, targets: Mapping[int, str]
) -> dict[int, pl.DataFrame]:
    """The points of a layer by number of the other model; of the only other one where they do not
    name it.
    """
    table = scatter(model.model, layer)
    if table is None:
        return {}
    if "best_model" not in table.columns:
        return dict.fromkeys(targets, table) if len(targets) == 1 else {}
    return {j: table.filter(pl.col("best_model") == target) for j, target in targets.items()}


def _write_page(folder: Path, name: str, home: str | None) -> None:
    """index.html and assets/."""
    page = (
        environment().get_template("explorer.html.j2").render(name=name, home=home, scripts=SCRIPTS)
    )
    write_text(folder / "index.html", page)
    for script in SCRIPTS:
        write_text(folder / "assets" / script, template_text(script))
    write_text(folder / "assets" / "report.css", template_text("report.css"))
    write_text(folder / "assets" / "explorer.css", template_text("explorer.css") + _model_colours())


def _model_colours() -> str:
    """Each model's colour as --model, in the light and in the dark."""
    light, dark = (
        "".join(
            f".model-{i} {{ --model: {pair[k]}; }}\n" for i, pair in enumerate(theme.MODEL_COLOURS)
        )
        for k in (0, 1)
    )
    return f"{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"
