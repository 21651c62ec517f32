"""The stages of a run that say what features mean, and how that goes with their matches.

features -> examples, measures, left context --+
matches  -> causal checks, lists, transplants --+-> tables -> relation of r to every measure
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from homolog.analyses.causal.measure import causal_words
from homolog.analyses.meaning.relation import relate
from homolog.corpus import TokenWindows
from homolog.pipeline import meaning
from homolog.pipeline.finish import by_itself, write_table
from homolog.pipeline.plan import Subject
from homolog.pipeline.subject import load_subject
from homolog.record.atomic import write_json
from homolog.record.recipe import Interpretation
from homolog.record.run_folder import RunFolder

if TYPE_CHECKING:
    from homolog.pipeline.compare import Here

Pairs = list[tuple[Subject, Subject]]
MEANING = "meaning:"
"""Begins the names of what may fail by itself."""
RELATED = ("main", "random-model", "rotated", "sae-seed", "model-seed")


def interpret(here: Here) -> None:
    """Run the tasks of `meaning` for the compared models, then write their tables and the relation.

    Reads the tables of the run, which are complete.
    """
    run, plan, wanted = here.run, here.plan, here.recipe.interpretation
    assert wanted is not None
    matches = pl.read_parquet(run.matches)
    layers_of = [(s, layer) for s in plan.compared for layer in range(_n_layers(here, s))]
    pairs = list(itertools.permutations(plan.compared, 2))
    judged = [pair for pair in pairs if _judged(matches, *pair)]
    outputs = [
        path(s.name, layer) for path in (run.contexts, run.scatter) for s, layer in layers_of
    ]
    outputs += [run.vocabulary, run.table("features")]
    with run.stage("interpretation", outputs):  # grows by the tables of what succeeds
        names = _run_tasks(here, layers_of, pairs, judged)
        outputs += map(run.table, names)
        parts = meaning.parts_folder(run.path)
        write_table(_feature_rows(parts, layers_of), run.table("features"))
        for name in names:
            write_table(
                pl.concat(
                    [pl.read_parquet(part) for part in sorted(parts.glob(f"{name}.*.parquet"))]
                ),
                run.table(name),
            )
        write_json(run.vocabulary, meaning.texts(load_subject(plan.compared[0], here.recipe)))
    if "causal_shares" in names:
        run.note(causal=causal_words(pl.read_parquet(run.table("causal_shares"))))
    relate_run(run)


def _run_tasks(
    here: Here, layers_of: list[tuple[Subject, int]], pairs: Pairs, judged: Pairs
) -> list[str]:
    """All tasks of `meaning`; returns the tables beside `features` that there are parts of.

    judged: the pairs of which some feature has a homolog.  What needs several documents is left out
    where there is one; each kind of task but the first two may fail by itself.
    """
    wanted, base = here.recipe.interpretation, {"run": here.path, "recipe": here.recipe}
    assert wanted is not None
    places = [base | {"subject": s, "layer": layer} for s, layer in layers_of]
    here.tasks("describe features", meaning.describe_layer, places)
    here.tasks("pair activations", meaning.scatter_layer, places)
    of_models = [base | {"subject": s} for s in here.plan.compared]
    of_judged = [base | {"a": a, "b": b} for a, b in judged]
    layers = pl.read_parquet(here.run.layers)
    of_pairs = [base | {"a": a, "b": b, "layers": _counterparts(layers, a, b)} for a, b in pairs]
    kinds = (
        (
            "cut left context",
            wanted.context_tokens,
            meaning.need_of_context,
            of_models,
            (),
            "match",
        ),
        (
            "ablate and steer matched features",
            wanted.causal_pairs,
            meaning.check_causes,
            of_judged,
            ("causal", "causal_shares"),
            None,
        ),
        (
            "regress exclusive features",
            wanted.listed,
            meaning.regress_features,
            of_judged,
            ("lists",),
            None,
        ),
        (
            "transplant residuals",
            wanted.transplant,
            meaning.transplant_layers,
            of_pairs,
            ("transplant",),
            "quality",
        ),
    )
    made: list[str] = []
    for title, asked_for, task, calls, tables, documents_of in kinds:
        if documents_of is not None and here.text[documents_of].n_documents < 2:
            continue  # `left_out` says so
        if asked_for and calls:
            with by_itself(here.run, f"{MEANING} {title}", here.progress):
                here.tasks(title, task, calls)
                made += tables
    return made


def left_out(text: Mapping[str, TokenWindows], wanted: Interpretation | None) -> list[str]:
    """In words, what a run does without because its text has one document, and why."""
    found = []
    if text["match"].n_documents < 2:
        found.append(
            "the matched text is one document (corpus.match_tokens, corpus.source): there are no "
            "intervals, "
            "which come from documents resampled, and no null of the maximum, so no verdict"
        )
        if wanted is not None and wanted.context_tokens:
            found.append(
                "the left context that features need is not measured: it is exchanged for another "
                "document's"
            )
    if text["quality"].n_documents < 2 and wanted is not None and wanted.transplant:
        found.append(
            "residuals are not transplanted: a map is fitted on some documents and tested on "
            "others, and "
            "corpus.quality_tokens hold one"
        )
    return found


def relate_run(run: RunFolder) -> None:
    """Write the tables `relation` and `curves` from those of matches, features and, where it is
    there, judged.
    """
    features = pl.read_parquet(run.table("features"))
    keys = ["model", "layer", "feature"]
    if run.table("judged").is_file():
        judged = pl.read_parquet(run.table("judged")).select(
            *keys, "complexity", "consistency_judged", "detection"
        )
        features = features.join(judged, on=keys, how="left")
    matches = pl.read_parquet(run.matches).filter(
        pl.col("comparison").is_in(RELATED), pl.col("kind") == "sae"
    )
    matches = matches.filter(pl.col("model").is_in(run.record["compared"]))
    relation, curves = relate(matches, features, seed=run.recipe["run"]["seed"])
    with run.stage("relation", [run.table("relation"), run.table("curves")]):
        write_table(relation, run.table("relation"))
        write_table(curves, run.table("curves"))


def _n_layers(here: Here, subject: Subject) -> int:
    return int(here.run.facts(f"dictionaries {subject.name}")["model"]["n_layers"])


def _judged(matches: pl.DataFrame, a: Subject, b: Subject) -> bool:
    """Whether some feature of `a` has a homolog in `b`."""
    main = matches.filter(comparison="main", model=a.name, best_model=b.name)
    return bool(main["homolog"].any())


def _counterparts(layers: pl.DataFrame, a: Subject, b: Subject) -> list[tuple[int, int]]:
    """For each layer of `a` that of `b` with the highest CKA, or mean r where CKA was not measured."""
    rows = layers.filter(comparison="main", model=a.name, best_model=b.name)
    height = "cka" if "cka" in rows.columns and rows["cka"].is_not_null().all() else "mean"
    best = rows.sort(
        "layer", pl.col(height).fill_nan(-1), "best_layer", descending=[False, True, False]
    )
    best = best.group_by("layer", maintain_order=True).first()
    return [(int(i), int(j)) for i, j in best.select("layer", "best_layer").iter_rows()]


def _feature_rows(parts: Path, layers_of: list[tuple[Subject, int]]) -> pl.DataFrame:
    """The table `features`: measures of every layer, with the left context where it was measured."""
    frames = []
    for subject, layer in layers_of:
        rows = pl.read_parquet(parts / "features" / subject.name / f"{layer}.parquet")
        context = parts / f"context.{subject.name}.parquet"
        if context.is_file():
            found = pl.read_parquet(context).select("layer", "feature", "context_tokens")
            rows = rows.join(
                found, on=["layer", "feature"], how="left", maintain_order="left", validate="1:1"
            )
        frames.append(rows)
    return pl.concat(frames, how="diagonal")
