"""What features mean, as tasks: examples, measures, left context, causal checks, regressions,
transplants.

Each writes the tables it is asked for and returns nothing; what is complete is not made again
(`storage.receipts`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import polars as pl
from scipy.sparse import csr_array

from homolog import dictionaries
from homolog.analyses.causal import measure as causal
from homolog.analyses.exclusive import measure as exclusive
from homolog.analyses.meaning import left_context
from homolog.analyses.meaning.examples import examples
from homolog.analyses.meaning.scatter import scatter
from homolog.analyses.meaning.table import feature_table
from homolog.analyses.transplant import measure as transplant
from homolog.corpus import TokenText, token_texts
from homolog.dictionaries import SparseAutoencoder
from homolog.features import SparseFeatures, capture, load_features
from homolog.models import LanguageModel, Site
from homolog.pipeline.finish import write_table
from homolog.pipeline.plan import Subject
from homolog.pipeline.subject import load_subject, windows_of
from homolog.record.receipts import read_receipt, write_receipt
from homolog.record.recipe import Interpretation, Recipe
from homolog.record.run_folder import RunFolder


def parts_folder(run: Path) -> Path:
    """Where the tables of tasks lie until the run ends."""
    return RunFolder(run).cache_folder / "interpretation"


def describe_layer(run: Path, recipe: Recipe, subject: Subject, layer: int) -> None:
    """Task: the examples of a layer's features, and their row in the table `features`."""
    folder, wanted = RunFolder(run), _wanted(recipe)
    files = {
        "contexts": folder.contexts(subject.name, layer),
        "features": parts_folder(run) / "features" / subject.name / f"{layer}.parquet",
    }

    def make() -> dict[str, pl.DataFrame]:
        model, windows = load_subject(subject, recipe), windows_of(run, "match")
        own = _features(run, subject.name, layer)
        decoder = dictionaries.load(folder.sae_folder(subject.name, layer)).W_dec
        seed = dictionaries.derive_seed(recipe.run.seed, "examples", subject.name, layer)
        found = examples(own, windows, top=wanted.top, per_quantile=wanted.per_quantile, seed=seed)
        measures = feature_table(own, windows, model, decoder, texts(model), seed=seed)
        return {"contexts": found, "features": measures}

    _keep(run, recipe, f"describe {subject.name} {layer}", files, make)


def need_of_context(run: Path, recipe: Recipe, subject: Subject) -> None:
    """Task: how much left context the features of a model need."""

    def make() -> dict[str, pl.DataFrame]:
        model, windows = load_subject(subject, recipe), windows_of(run, "match")
        matrix_of = _matrices(run, subject)
        seed = dictionaries.derive_seed(recipe.run.seed, "left context", subject.name)
        most = _wanted(recipe).context_tokens
        rows = left_context.choose_rows(
            matrix_of, range(model.n_layers), windows, most_tokens=most, seed=seed
        )
        saes = {layer: _sae(run, subject, layer) for layer in range(model.n_layers)}
        found = left_context.left_context(model, windows, rows, saes, matrix_of)
        return {"context": found.with_columns(pl.lit(subject.name).alias("model"))}

    files = {"context": parts_folder(run) / f"context.{subject.name}.parquet"}
    _keep(run, recipe, f"context {subject.name}", files, make)


def check_causes(run: Path, recipe: Recipe, a: Subject, b: Subject) -> None:
    """Task: are matched features of `a` and `b` causally alike."""

    def make() -> dict[str, pl.DataFrame]:
        seed, n_pairs = recipe.run.seed, _wanted(recipe).causal_pairs
        matches = pl.read_parquet(RunFolder(run).matches)
        pairs, probes = causal.choose_pairs(
            matches,
            a.name,
            b.name,
            _matrices(run, a),
            _matrices(run, b),
            n_pairs=n_pairs,
            seed=seed,
        )
        sides = [
            causal.Subject(
                load_subject(s, recipe), {i: _sae(run, s, i) for i in pairs[column].unique().sort()}
            )
            for s, column in ((a, "layer"), (b, "best_layer"))
        ]
        effects = causal.measure_effects(pairs, probes, windows_of(run, "match"), *sides)
        found = causal.agreement(pairs, effects, seed=seed)
        shares = causal.causal_shares(found, seed=seed)
        where = [pl.lit(a.name).alias("model"), pl.lit(b.name).alias("best_model")]
        return {"causal": found, "causal_shares": shares.select(*where, pl.all())}

    _keep(
        run,
        recipe,
        f"causal {a.name} {b.name}",
        pair_files(run, a, b, "causal", "causal_shares"),
        make,
    )


def regress_features(run: Path, recipe: Recipe, a: Subject, b: Subject) -> None:
    """Task: the best shared and the exclusive features of `a`; the latter regressed on all features
    of `b`.
    """

    def make() -> dict[str, pl.DataFrame]:
        folder = RunFolder(run)
        found = exclusive.lists(
            pl.read_parquet(RunFolder(run).matches),
            pl.read_parquet(folder.saes_table),
            least_freq=recipe.matching.frequency_floor,
            most=_wanted(recipe).listed,
        ).filter(pl.col("model") == a.name, pl.col("best_model") == b.name)
        alone = found.filter(list="exclusive")
        layers = [int(path.name) for path in folder.feature_folder(b.name, 0).parent.iterdir()]
        own = [_features(run, a.name, layer) for layer in alone["layer"].unique().sort()]
        others = [_features(run, b.name, layer) for layer in sorted(layers)]
        alone = exclusive.exclusive_r2(alone, own, others, seed=recipe.run.seed)
        return {"lists": pl.concat([found.filter(list="shared"), alone], how="diagonal")}

    _keep(run, recipe, f"lists {a.name} {b.name}", pair_files(run, a, b, "lists"), make)


def transplant_layers(
    run: Path, recipe: Recipe, a: Subject, b: Subject, layers: list[tuple[int, int]]
) -> None:
    """Task: the dictionaries of some layers of `a` on residuals of `b`, mapped; layers: (of a, of
    b).
    """

    def make() -> dict[str, pl.DataFrame]:
        windows, parts = windows_of(run, "quality"), []
        for own, other in layers:
            y, x = (
                capture(load_subject(s, recipe), windows, [Site("resid", i)])[0]
                for s, i in ((a, own), (b, other))
            )
            rows = transplant.transplant(
                x, y, windows.token_document, _sae(run, a, own), seed=recipe.run.seed
            )
            where = {"model": a.name, "layer": own, "source_model": b.name, "source_layer": other}
            parts.append(
                rows.select(*(pl.lit(value).alias(name) for name, value in where.items()), pl.all())
            )
        return {"transplant": pl.concat(parts)}

    _keep(run, recipe, f"transplant {a.name} {b.name}", pair_files(run, a, b, "transplant"), make)


def scatter_layer(run: Path, recipe: Recipe, subject: Subject, layer: int) -> None:
    """Task: the activations of a layer's features beside those of their best partners, on some
    tokens.
    """
    folder = RunFolder(run)

    def make() -> dict[str, pl.DataFrame]:
        matches = pl.read_parquet(RunFolder(run).matches).filter(
            comparison="main", model=subject.name, layer=layer, kind="sae"
        )
        own = _features(run, subject.name, layer)
        return {
            "scatter": scatter(
                own, matches, lambda name, i: _features(run, name, i), seed=recipe.run.seed
            )
        }

    files = {"scatter": folder.scatter(subject.name, layer)}
    _keep(run, recipe, f"scatter {subject.name} {layer}", files, make)


def pair_files(run: Path, a: Subject, b: Subject, *names: str) -> dict[str, Path]:
    """The tables of an ordered pair of models, by name."""
    return {name: parts_folder(run) / f"{name}.{a.name}.{b.name}.parquet" for name in names}


def texts(model: LanguageModel) -> list[TokenText]:
    """The text of each token id of a model."""
    return token_texts(model.tokenizer)


def _keep(
    run: Path,
    recipe: Recipe,
    task: str,
    files: dict[str, Path],
    make: Callable[[], dict[str, pl.DataFrame]],
) -> None:
    """Write the tables of `make` to the files of their names, unless a receipt says that they are
    there.
    """
    receipt, key = parts_folder(run) / "receipts" / f"{task}.json", f"{task} {recipe.hash}"
    if read_receipt(receipt, key) is None:
        for name, frame in make().items():
            write_table(frame, files[name])
        write_receipt(receipt, True, list(files.values()), key)


def _wanted(recipe: Recipe) -> Interpretation:
    assert recipe.interpretation is not None
    return recipe.interpretation


def _features(run: Path, model: str, layer: int) -> SparseFeatures:
    found = load_features(RunFolder(run).feature_folder(model, layer))
    assert isinstance(found, SparseFeatures)
    return found


def _matrices(run: Path, subject: Subject) -> Callable[[int], csr_array]:
    """The activations of a subject by layer; the last layer asked for is kept."""
    return lru_cache(maxsize=1)(lambda layer: _features(run, subject.name, layer).matrix)


def _sae(run: Path, subject: Subject, layer: int) -> SparseAutoencoder:
    return dictionaries.load(RunFolder(run).sae_folder(subject.name, layer))
