"""The comparisons of a study: each a stage of its own, then the tables of the run from their parts.

match       every pair of layers, with the null where the comparison is calibrated
spaces      similarity of residual streams and decoders, which may fail by itself
tables      matches, layers, summary, saes; homologs and verdicts (`verdicts.py`)

What has been matched and is only judged by other settings is not matched again (`judging.py`).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from homolog.analyses import ANALYSES
from homolog.features import StoredFeatures, open_features
from homolog.matching import summarise, tables_of
from homolog.pipeline.analyses import words_left_out
from homolog.pipeline.brought import without_seed
from homolog.pipeline.context import Context
from homolog.pipeline.features import feature_folders, share_by_token
from homolog.pipeline.judging import (
    OF_PARTS,
    PARTS,
    KeptNull,
    cut_out,
    held,
    is_judged,
    judged_by,
    made_by,
)
from homolog.pipeline.matches import Comparer, Matched
from homolog.pipeline.models import left_out
from homolog.pipeline.spaces import compare_decoders, compare_residuals
from homolog.pipeline.text import MATCH, NEURONS, most_exchanges, warnings_of
from homolog.pipeline.units import folders_of_pair, folders_on
from homolog.pipeline.verdicts import verdict_tables
from homolog.record.comparisons import NEURONS as NEURON_RESULT
from homolog.record.comparisons import Planned, planned
from homolog.record.table import Table, write_table
from homolog.record.tables import (
    LAYERS,
    MATCHES,
    RESAMPLED,
    SAES,
    SHARED,
    SUMMARY,
    VARIANCE,
)
from homolog.record.tables.matching import SPACES

TABLES = (*PARTS, SAES, SHARED, RESAMPLED, VARIANCE)
"""Tables that need all comparisons, or parts of all."""
LAYER_PAIR = ("model", "label", "layer", "best_model", "best_label", "best_layer")


@dataclass(frozen=True)
class Parts:
    """A comparison in a run: its stages, and where its parts of the tables lie."""

    context: Context
    planned: Planned

    @property
    def match(self) -> str:
        """The stage."""
        return f"match {self.planned.key}"

    @property
    def spaces(self) -> str:
        """What of it may fail by itself."""
        return f"spaces {self.planned.key}"

    def path(self, table: Table) -> Path:
        """Its part of a table."""
        folder = self.context.run.cache_folder / "tables"
        return folder / f"{self.planned.key}.{table.name}.parquet"

    @property
    def null(self) -> Path:
        """What chance finds, of a calibrated comparison."""
        return self.context.run.null_file(self.planned.key)

    @property
    def outputs(self) -> list[Path]:
        """What its stage writes."""
        null = [self.null] if self.planned.comparison.calibrated else []
        return [*map(self.path, PARTS), *null]

    @property
    def is_matched(self) -> bool:
        """Whether its stage has been done, however it was judged, and nothing of it failed."""
        stages = self.context.run.record["stages"]
        return self.match in stages and not {self.match, self.spaces} & self.context.failed.keys()

    @property
    def is_judged(self) -> bool:
        """Whether it was judged as the recipe says."""
        return is_judged(self.context.run, self.match, self.context.material.recipe, OF_PARTS)

    @property
    def is_made(self) -> bool:
        """Whether nothing of it is missing."""
        return self.is_matched and self.context.run.is_done(self.match) and self.is_judged


def comparer_of(context: Context) -> Comparer:
    """Matches sides of this run."""
    cache, device = context.run.cache_folder, context.material.recipe.run.device
    return Comparer(context.engine, cache, context.task_bytes, context.threads, device)


def compare(context: Context) -> None:
    """Make what is missing of the comparisons, then the tables of the run."""
    recipe = context.material.recipe
    plans = planned(context.material.models, left_out(recipe))
    all_parts = [Parts(context, plan) for plan in plans]
    stages = {name for parts in all_parts for name in (parts.match, parts.spaces)}
    whole = context.run.is_done("tables")
    nulls = {plan.key: KeptNull.of(context.run, plan) for plan in plans}
    judged = whole and all(nulls.values()) and is_judged(context.run, "tables", recipe)
    if not stages & context.failed.keys() and judged:
        return
    for parts in all_parts:
        null = nulls.pop(parts.planned.key)
        if parts.is_matched and null is not None:
            _judge_anew(parts, null, whole=whole)
    for parts in all_parts:
        if not parts.is_made:
            needed = parts.planned.comparison.needed
            with nullcontext() if needed else context.apart(parts.match):
                _compare(parts)
    _write_tables(context, [parts for parts in all_parts if parts.match not in context.failed])


def _compare(parts: Parts) -> None:
    context, plan = parts.context, parts.planned
    recipe, comparer = context.material.recipe, comparer_of(context)
    a, b = folders_of_pair(context, plan.a, plan.b)  # may be stages themselves
    with context.run.stage(parts.match, parts.outputs) as facts:
        if plan.comparison is NEURON_RESULT:
            _note_neurons(context, plan)
        n_exchanges = 0
        if plan.comparison.calibrated:
            possible = most_exchanges(open_features(a[0]).document)
            n_exchanges = min(recipe.matching.null_exchanges, possible)
        with context.bar(f"match {plan.title}", len(a) * len(b)) as report:
            pairs = context.run.cache_folder / "pairs" / plan.key
            matched = comparer.match(a, b, pairs, (n_exchanges, recipe.run.seed), report)
        name, layers = plan.comparison.name, (matched.layers_a, matched.layers_b)
        tables = tables_of(*layers, matched.pairs(), comparison=name, fdr=recipe.matching.fdr)
        if plan.comparison.calibrated:
            KeptNull(parts.null, tables.null, layers[0][0].n_tokens).write()
        summary = _summary(context, tables.matches, *layers)
        spaces = LAYERS.frame().select(*LAYER_PAIR, *SPACES)
        with context.apart(parts.spaces):
            spaces = _spaces(context, plan, matched)
        joined = tables.layers.join(spaces, on=LAYER_PAIR, how="left", maintain_order="left")
        for table, frame in zip(PARTS, (tables.matches, joined, summary), strict=True):
            write_table(frame, parts.path(table))  # matches grow by what needs all comparisons
        facts["by"] = judged_by(recipe, OF_PARTS)


def _judge_anew(parts: Parts, null: KeptNull, *, whole: bool) -> None:
    """Make the parts of a comparison by other settings, where the run has kept what that needs.

    null: as the run has kept it.  whole: the run's tables are as they were written, by whatever
    settings, and have its rows.
    """
    context, plan = parts.context, parts.planned
    run, recipe = context.run, context.material.recipe
    cached = all(parts.path(table).exists() for table in PARTS)
    if cached and parts.is_judged:
        return
    if cached and run.is_done(parts.match):
        frames = {table: pl.read_parquet(parts.path(table)) for table in PARTS}
        made = made_by(run, parts.match)
    else:
        frames, made = cut_out(run, plan) if whole else None, made_by(run, "tables")
    if frames is None:
        return
    now = judged_by(recipe, OF_PARTS)
    changed = [name for name, value in now.items() if made.get(name) != value]
    if "matching.fdr" in changed:
        frames[MATCHES] = null.threshold(frames[MATCHES], recipe.matching.fdr)
    if "matching.resamples" in changed:
        a, b = folders_of_pair(context, plan.a, plan.b)  # may be stages themselves
        layers = [[open_features(folder) for folder in side] for side in (a, b)]
        frames[SUMMARY] = _summary(context, frames[MATCHES], *layers)
    with run.stage(parts.match, parts.outputs) as facts:
        for table in PARTS:
            write_table(frames[table], parts.path(table))
        facts["by"] = now


def _summary(
    context: Context,
    matches: pl.DataFrame,
    layers_a: list[StoredFeatures],
    layers_b: list[StoredFeatures],
) -> pl.DataFrame:
    """The rows of `SUMMARY` of one comparison."""
    recipe, comparer = context.material.recipe, comparer_of(context)
    summary = summarise(
        matches,
        layers_a,
        layers_b,
        seed=recipe.run.seed,
        n_replicates=recipe.matching.resamples,
        frequent=max(1, round(recipe.matching.frequency_floor * layers_a[0].n_tokens)),
        columns=comparer.columns,
    )
    comparer.forget()
    return summary


def _note_neurons(context: Context, plan: Planned) -> None:
    """What the current token explains of the neurons of both sides, by each one's own tokens."""
    windows = context.material.windows
    shares = {
        side.model.name: share_by_token(
            feature_folders(context, side), windows(NEURONS, side.model.name)
        )
        for side in (plan.a, plan.b)
    }
    context.run.note(neurons_by_token=context.run.record.get("neurons_by_token", {}) | shares)


def _spaces(context: Context, plan: Planned, matched: Matched) -> pl.DataFrame:
    """Similarity of spaces of each ordered pair of layers, null where it is not measured."""
    recipe, kinds = context.material.recipe, plan.comparison.spaces
    layers = [(own.layer, other.layer) for own in matched.layers_a for other in matched.layers_b]
    rows: dict[tuple[int, int], dict[str, Any]] = {pair: {} for pair in layers}
    if "residuals" in kinds and recipe.matching.space_tokens:
        call = {"a": plan.a.model, "b": plan.b.model, "threads": context.threads}
        (of_residuals,) = context.tasks(f"residuals of {plan.title}", compare_residuals, [call])
        rows = {place: row | of_residuals[place] for place, row in rows.items()}
    if "decoders" in kinds:
        calls = [
            {"a": plan.a, "layer": own.layer, "b": plan.b, "files": files}
            for own, files in zip(matched.layers_a, matched.files, strict=True)
        ]
        of_layers = context.tasks(f"decoders of {plan.title}", compare_decoders, calls)
        of_decoders = [row for part in of_layers for row in part]
        rows = {place: rows[place] | row for place, row in zip(layers, of_decoders, strict=True)}
    a = {"model": plan.a.model.name, "label": plan.a.label}
    b = {"best_model": plan.b.model.name, "best_label": plan.b.label}
    one_way = [a | b | {"layer": i, "best_layer": j} | row for (i, j), row in rows.items() if row]
    turned = {key: f"best_{key}" for key in ("model", "label", "layer")}
    turned |= {value: key for key, value in turned.items()}
    other_way = [{turned.get(key, key): v for key, v in row.items()} for row in one_way]
    frame = LAYERS.frame([*one_way, *other_way]).select(*LAYER_PAIR, *SPACES)
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None))


def _write_tables(context: Context, made: list[Parts]) -> None:
    run, material = context.run, context.material
    facts = [run.facts(f"dictionaries {model.name}") for model in material.models.all]
    run.note(models=[fact["model"] for fact in facts])
    saes = [held(row, material.recipe.gates) for fact in facts for row in fact["saes"]]
    written, shown = run.stage("tables", [run.table(table) for table in TABLES]), "write the tables"
    with written as own, context.progress.stage(shown):
        matches, layers, summary = (
            pl.concat([pl.read_parquet(parts.path(table)) for parts in made]) for table in PARTS
        )
        frames = {LAYERS: layers, SUMMARY: summary, SAES: SAES.frame(saes)}
        comparer, folders = comparer_of(context), partial(folders_on, context)
        frames |= verdict_tables(material, matches, frames[SAES], folders, comparer.columns)
        comparer.forget()
        for table in TABLES:
            table.write(frames[table], run.table(table))
        warnings = warnings_of(material.recipe, material.windows(MATCH))
        warnings += words_left_out(material, ANALYSES)
        warnings += [note for fact in facts for note in fact["notes"]]
        warnings += without_seed(material.compared, material.recipe)
        warnings += [  # last, for they may be many
            f"{row['model']}, layer {row['layer']} ({row['label']}): {row['reason']}"
            for row in saes
            if not row["passed"]
        ]
        run.note(verdicts=frames[SHARED].to_dicts(), warnings=warnings)
        own["by"] = judged_by(material.recipe)
