"""The paper's second study: how each model does induction, part by part, from prompts to tables.

    model -> circuit by path patching -> Off-by-One -> discovery by attribution, some edges patched
    for real -> tables

Every model is a stage of the run folder.  `run_circuits` is the study by itself; the comparison of
two models (`compare.py`) takes `trace_models` in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import torch

from homolog.circuits.discovery import Discovery, discover
from homolog.circuits.induction import (
    CARRIER,
    COPIER,
    MATCHER,
    Ability,
    Circuit,
    Prompts,
    Unable,
    trace_induction,
)
from homolog.circuits.off_by_one import OffByOne, off_by_one
from homolog.circuits.released import compare, released_for
from homolog.errors import InputError
from homolog.models import LanguageModel, load, require_inner_sites, require_positions
from homolog.pipeline.finish import by_itself, finish, write_table
from homolog.pipeline.inputs import require_different
from homolog.pipeline.plan import Subject, weights_of
from homolog.progress import Progress
from homolog.record.recipe import CircuitRecipe, Circuits
from homolog.record.run_folder import RunFolder

CIRCUIT_TABLES = ("circuits", "effects", "roles", "offsets", "edges")
KEPT_EDGES = 200  # a model, beside those that were patched for real
CORRUPTIONS = ("replace_B", "replace_A")  # of discovery: what is copied, and what is matched


def run_circuits(recipe: CircuitRecipe, out: Path, progress: Progress) -> Path:
    """Run the study into the folder `out`, or continue there; returns the report's index.html.

    Errors: InputError for models or a folder that cannot be used, and when no model can do the
    task.
    """
    subjects = [Subject(ref, "model", recipe.revision) for ref in recipe.models]
    if len({s.name for s in subjects}) < len(subjects):
        raise InputError(
            "models", list(recipe.models), "each needs a name of its own", "Name each model once."
        )
    require_circuits(subjects, recipe.circuits, "Name models of these architectures.")
    weights = weights_of(subjects)
    if not (out / "run.json").exists():
        require_different(weights)
    run = RunFolder.open(out, recipe.values())
    try:
        run.check_inputs(weights)
        run.note(name=recipe.name, compared=[s.name for s in subjects], device=recipe.run.device)
        trace_models(
            run,
            subjects,
            recipe.circuits,
            recipe.run.seed,
            recipe.run.dtype,
            recipe.run.device,
            progress,
            alone=len(subjects) == 1,
        )
        if (failed := run.record.get("failed", {})) and not run.table("circuits").is_file():
            raise RuntimeError(
                f"no circuit could be traced: {'; '.join(why['error'] for why in failed.values())}"
            )
        found = pl.read_parquet(run.table("circuits"))
        if not found.get_column("able").any():
            raise InputError(
                "models",
                [s.name for s in subjects],
                found.get_column("reason")[0],
                "Repeat more tokens (--repeat 8), or take another model.",
            )
        return finish(run, progress)
    finally:
        run.close()


def require_circuits(
    subjects: Sequence[Subject], settings: Circuits, remedy: str, *, random: bool = False
) -> None:
    """InputError unless every model has an adapter with sites inside its blocks, and as many
    positions as prompts.
    """
    for subject in subjects:
        require_positions(
            subject.ref, settings.length, "circuits.length", subject.revision, random=random
        )
        require_inner_sites(
            subject.ref, "tracing circuits", remedy, subject.revision, random=random
        )


def expected_lines(
    ref: str, n_prompts: int, seed: int, batch: int, device: str, progress: Progress
) -> Iterator[str]:
    """The paper's experiments repeated on a model, beside the released numbers, as lines of text.

    Errors: InputError for a model of another shape than the two whose numbers were released.
    """
    model = load(ref, device=device)
    with progress.stage(
        f"repeat released experiments on {ref}", len(released_for(model)) * n_prompts
    ) as bar:
        rows = compare(model, n_prompts, seed, batch, bar.advance)
    columns = ("released", "ours", "deviation", "released_change", "our_change")
    for experiment, group in itertools.groupby(rows, lambda row: row["experiment"]):
        found = list(group)
        yield f"{experiment}, {n_prompts} prompts. {found[0]['note']}".rstrip()
        yield f"  {'place':<28}{'metric':<12}" + "".join(f"{name:>17}" for name in columns)
        for row in found:
            shown = ("-" if math.isnan(row[name]) else f"{row[name]:.4f}" for name in columns)
            yield f"  {row['place']:<28}{row['metric']:<12}" + "".join(
                f"{text:>17}" for text in shown
            )


def trace_models(
    run: RunFolder,
    subjects: Sequence[Subject],
    settings: Circuits,
    seed: int,
    dtype: str,
    device: str,
    progress: Progress,
    *,
    random: bool = False,
    alone: bool = False,
) -> None:
    """The circuit of every model as a stage of its own, then the tables of the run from their
    parts.

    A circuit that fails takes nothing from the rest of the run, unless it is all that was asked for
    (`alone`).
    """
    stages = [f"circuit {s.name}" for s in subjects]
    if run.is_done("circuits") and not set(stages) & run.record.get("failed", {}).keys():
        return
    parts = {
        table: [run.cache_folder / "tables" / f"{s.name}.{table}.parquet" for s in subjects]
        for table in CIRCUIT_TABLES
    }
    for i, (subject, stage) in enumerate(zip(subjects, stages, strict=True)):
        if not run.is_done(stage):
            apart = nullcontext() if alone else by_itself(run, stage, progress)
            with apart, run.stage(stage, [paths[i] for paths in parts.values()]):
                model = load(
                    subject.ref,
                    revision=subject.revision,
                    dtype=getattr(torch, dtype),
                    device=device,
                    random=random,
                )
                tables = _trace(model, subject.name, settings, seed, progress)
                for table, paths in parts.items():
                    write_table(tables[table], paths[i])
    traced = [i for i, stage in enumerate(stages) if stage not in run.record.get("failed", {})]
    if not traced:
        return
    with run.stage("circuits", [run.table(table) for table in CIRCUIT_TABLES]):
        for table, paths in parts.items():
            frames = [pl.read_parquet(paths[i]) for i in traced]
            write_table(
                pl.concat([f for f in frames if f.width] or frames, how="diagonal_relaxed"),
                run.table(table),
            )


def _trace(
    model: LanguageModel, name: str, settings: Circuits, seed: int, progress: Progress
) -> dict[str, pl.DataFrame]:
    """The tables of one model; only a row of `circuits` where it cannot do the task."""
    prompts = Prompts(settings.n_prompts, settings.length, settings.repeat, seed, settings.batch)
    about = {
        "model": name,
        "architecture": model.architecture,
        "n_layers": model.n_layers,
        "task": settings.task,
        "n_prompts": settings.n_prompts,
        "length": settings.length,
        "repeat": settings.repeat,
    }
    empty = {table: pl.DataFrame() for table in CIRCUIT_TABLES}
    try:
        with progress.stage(f"patch paths in {name}") as bar:
            circuit = trace_induction(model, prompts, bar.advance)
    except Unable as unable:
        row = about | _ability(unable.ability) | {"able": False, "reason": unable.requirement}
        progress.note(str(unable))
        return empty | {"circuits": pl.DataFrame([row])}
    with progress.stage(f"off by one in {name}", 2 * len(prompts)) as bar:
        offset = off_by_one(model, prompts, circuit.key, bar.advance)
    with progress.stage(f"discover edges of {name}", len(CORRUPTIONS)) as bar:
        found = {}
        for corruption in CORRUPTIONS:
            pairs = prompts.pairs(model, corruption)[: settings.discovery_prompts]
            n = settings.validated_edges
            found[corruption] = discover(model, pairs, n_top=n, n_random=n, seed=seed)
            bar.advance(1)
    row = (
        about
        | _ability(circuit.ability)
        | {"able": True, "reason": ""}
        | _circuit_row(circuit, offset, found)
    )
    own = {"model": name, "architecture": model.architecture}
    return {
        "circuits": pl.DataFrame([row]),
        "effects": _frame(
            own | {"task": settings.task} | r for e in circuit.effects for r in e.rows(seed)
        ),
        "roles": _frame(own | _role_row(role) for role in circuit.roles),
        "offsets": _frame(own | r for profile in offset.profiles for r in profile.rows()),
        "edges": pl.concat(
            [
                _edges(d).select(
                    *(pl.lit(value).alias(key) for key, value in (own | {"corruption": c}).items()),
                    pl.all(),
                )
                for c, d in found.items()
            ],
            how="diagonal_relaxed",
        ),
    }


def _frame(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Rows of which not all have all columns."""
    return pl.DataFrame(list(rows), infer_schema_length=None)


def _ability(ability: Ability) -> dict[str, Any]:
    return {
        "preferred": ability.preferred,
        "accuracy": ability.accuracy,
        "probability": ability.probability,
        "logit_difference": ability.logit_difference,
    }


def _role_row(role: Any) -> dict[str, Any]:
    mean, low, high = (float(part) for part in role.change)
    return {
        "role": role.role,
        "component": role.component,
        "evidence": role.evidence,
        "change": mean,
        "change_lo": low,
        "change_hi": high,
        "share": role.share,
    }


def _circuit_row(circuit: Circuit, offset: OffByOne, found: dict[str, Discovery]) -> dict[str, Any]:
    centre, low, high = (float(part) for part in offset.centre)
    row = {
        "key": circuit.key,
        "faithfulness": circuit.faithfulness.score.value,
        "faithfulness_lo": circuit.faithfulness.score.low,
        "faithfulness_hi": circuit.faithfulness.score.high,
        "verdict": offset.verdict,
        "offset": offset.offset,
        "certainty": offset.certainty,
        "centre": centre,
        "centre_lo": low,
        "centre_hi": high,
        "predicted_offset": offset.predicted,
        "discovery_recall": _recall(circuit, found),
    }
    for corruption, discovery in found.items():
        for edges, pearson, spearman in discovery.correlation.select(
            "edges", "pearson", "spearman"
        ).iter_rows():
            row |= {
                f"{corruption}_pearson_{edges}": pearson,
                f"{corruption}_spearman_{edges}": spearman,
            }
    return row


def _recall(circuit: Circuit, found: dict[str, Discovery]) -> float:
    """Share of the parts found by path patching that discovery ranks among as many of its own.

    Copiers are looked for where B was replaced, carriers and matchers where A was.
    """
    hits = wanted = 0
    for corruption, roles in (("replace_B", (COPIER,)), ("replace_A", (CARRIER, MATCHER))):
        parts = {_node(r.component) for r in circuit.roles if r.role in roles}
        hits += len(parts & set(_movers(found[corruption])[: len(parts)]))
        wanted += len(parts)
    return hits / wanted


def _movers(found: Discovery) -> list[str]:
    """Heads, or mixers, in the order of what they move between positions; what stays at a position
    does not count.

    In a mixer that are its state writes and the taps of its convolution that read earlier
    positions.
    """
    edges = found.edges.filter(pl.col("receiver").str.contains(r"^(state|conv_taps)"))
    if edges.is_empty():
        return (
            found.components()
            .filter(pl.col("node").str.starts_with("head"))
            .get_column("node")
            .to_list()
        )
    moved = edges.filter(pl.col("tap").is_null() | (pl.col("tap") < pl.col("tap").max()))
    by_layer = (
        moved.group_by("sender_layer")
        .agg(pl.col("score").abs().sum())
        .sort("score", descending=True)
    )
    return [f"mixer_out.{layer}" for layer in by_layer.get_column("sender_layer")]


def _node(component: str) -> str:
    """The node of discovery that a component belongs to: its head, or its layer's mixer."""
    kind, *place = component.split("@")[0].split(".")
    return f"head_out.{'.'.join(place)}" if kind == "z" else f"mixer_out.{place[0]}"


def _edges(found: Discovery) -> pl.DataFrame:
    """Edges that were patched for real, then the strongest of the others."""
    keys = ["sender", "receiver", "tap", "position"]
    rest = found.edges.head(KEPT_EDGES).join(
        found.validation, on=keys, how="anti", nulls_equal=True
    )
    return pl.concat([found.validation, rest], how="diagonal_relaxed")
