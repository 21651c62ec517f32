"""The paper's second study: how each model does induction, part by part, from prompts to tables.

    model -> circuit by path patching -> Off-by-One -> discovery by attribution, some edges patched
    for real -> tables

Every model is a stage of the run folder.  `run_circuits` is the study by itself; the comparison of
two models (`compare.py`) takes `trace_models` in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import torch

from homolog.circuits.discovery import Discovery, discover
from homolog.circuits.induction import Circuit, trace_induction
from homolog.circuits.off_by_one import OffByOne, off_by_one
from homolog.circuits.prompts import Prompts, Unable
from homolog.circuits.recall import recall
from homolog.circuits.released import compare, released_for
from homolog.circuits.tables import DISCOVERY_CORRUPTIONS, STUDY_TABLES, table
from homolog.engine import open_engine
from homolog.errors import InputError
from homolog.models import LanguageModel, load, require_inner_sites, require_positions
from homolog.pipeline.finish import by_itself, finish, write_table
from homolog.pipeline.inputs import require_different
from homolog.pipeline.plan import Subject, weights_of
from homolog.pipeline.recipe import CircuitRecipe, Circuits, Run
from homolog.progress import Progress
from homolog.record.run_folder import RunFolder

KEPT_EDGES = 200  # of each model, beside those that were patched for real
Tables = Mapping[str, pl.DataFrame]


def run_circuits(recipe: CircuitRecipe, out: Path, progress: Progress) -> Path:
    """Run the study into the folder `out`, or continue there; returns the report's index.html.

    Errors: InputError for models or a folder that cannot be used, and when no model can do the
    task.
    """
    subjects = named_once(recipe.models, recipe.revision)
    require_circuits(subjects, recipe.circuits, "Name models of these architectures.")
    weights = weights_of(subjects)
    if not (out / "run.json").exists():
        require_different(weights)
    run = RunFolder.open(out, recipe.values())
    try:
        run.check_inputs(weights)
        run.note(name=recipe.name, compared=[s.name for s in subjects], device=recipe.run.device)
        alone = len(subjects) == 1
        trace_models(run, subjects, recipe.circuits, recipe.run, progress, alone=alone)
        if (failed := run.record.get("failed", {})) and not run.table("circuits").is_file():
            raise RuntimeError(
                f"no circuit could be traced: {'; '.join(why['error'] for why in failed.values())}"
            )
        circuits = pl.read_parquet(run.table("circuits"))
        if not circuits.get_column("able").any():
            raise InputError(
                "models",
                [s.name for s in subjects],
                circuits.get_column("reason")[0],
                "Repeat more tokens (--repeat 8), or take another model.",
            )
        return finish(run, progress)
    finally:
        run.close()


def named_once(refs: Sequence[str], revision: str | None = None) -> list[Subject]:
    """The models of a study; InputError where two would share a name."""
    subjects = [Subject(ref, "model", revision) for ref in refs]
    if len({s.name for s in subjects}) < len(subjects):
        raise InputError(
            "models", list(refs), "each needs a name of its own", "Name each model once."
        )
    return subjects


def require_circuits(
    subjects: Sequence[Subject], settings: Circuits, remedy: str, *, random: bool = False
) -> None:
    """InputError unless every model has an adapter and as many positions as prompts.

    The adapter has to know the sites inside its blocks.
    """
    for subject in subjects:
        require_positions(
            subject.ref, settings.length, "circuits.length", subject.revision, random=random
        )
        require_inner_sites(
            subject.ref, "tracing circuits", remedy, subject.revision, random=random
        )


def expected_lines(
    ref: str, n_prompts: int, batch: int, where: Run, progress: Progress
) -> Iterator[str]:
    """The paper's experiments repeated on a model, beside the released numbers, as lines of text.

    Errors: InputError for a model of another shape than the two whose numbers were released.
    """
    model = load_where(Subject(ref, "model"), where)
    total = len(released_for(model)) * n_prompts
    with progress.stage(f"repeat released experiments on {ref}", total) as bar:
        compared = compare(model, n_prompts, where.seed, batch, bar.advance)
    columns = ("released", "ours", "deviation", "released_change", "our_change")
    for experiment, group in itertools.groupby(compared, lambda row: row["experiment"]):
        rows = list(group)
        yield f"{experiment}, {n_prompts} prompts. {rows[0]['note']}".rstrip()
        yield f"  {'place':<28}{'metric':<12}" + "".join(f"{name:>17}" for name in columns)
        for row in rows:
            shown = ("-" if math.isnan(row[name]) else f"{row[name]:.4f}" for name in columns)
            numbers = "".join(f"{text:>17}" for text in shown)
            yield f"  {row['place']:<28}{row['metric']:<12}{numbers}"


def trace_models(
    run: RunFolder,
    subjects: Sequence[Subject],
    settings: Circuits,
    where: Run,
    progress: Progress,
    *,
    alone: bool = False,
    threads: int | None = None,
) -> None:
    """The circuit of every model as a stage of its own, then the tables of the run.

    A circuit that fails takes nothing from the rest of the run, unless it is all that was asked for
    (`alone`).  threads: CPU threads; None: no limit.
    """

    def trace(subject: Subject) -> Tables:
        return _trace(load_where(subject, where), subject.name, settings, where.seed, progress)

    def apart(stage: str) -> AbstractContextManager[None]:
        return nullcontext() if alone else by_itself(run, stage, progress)

    stages = {f"circuit {s.name}": s for s in subjects}
    with open_engine(threads=threads):
        tables_by_model(run, "circuits", stages, STUDY_TABLES, trace, apart)


def load_where(subject: Subject, where: Run) -> LanguageModel:
    """The model of a study on its device, in its precision."""
    return load(
        subject.ref,
        revision=subject.revision,
        dtype=getattr(torch, where.dtype),
        device=where.device,
        random=where.random_weights,
    )


def tables_by_model(
    run: RunFolder,
    name: str,
    stages: Mapping[str, Subject],
    tables: Sequence[str],
    make: Callable[[Subject], Tables],
    apart: Callable[[str], AbstractContextManager[None]] = lambda stage: nullcontext(),
) -> None:
    """Tables of one model after the other, each a stage, then those of the run: the stage `name`.

    stages   the models, by the names of their stages
    make     gives the tables of a model
    apart    what a stage runs in
    """
    if run.is_done(name) and not stages.keys() & run.record.get("failed", {}).keys():
        return
    folder = run.cache_folder / "tables"
    parts = {
        stage: {kind: folder / f"{subject.name}.{kind}.parquet" for kind in tables}
        for stage, subject in stages.items()
    }
    for stage, files in parts.items():
        if not run.is_done(stage):
            with apart(stage), run.stage(stage, files.values()):
                made = make(stages[stage])
                for kind, file in files.items():
                    write_table(made[kind], file)
    failed = run.record.get("failed", {})
    traced = [files for stage, files in parts.items() if stage not in failed]
    if not traced:
        return
    with run.stage(name, [run.table(kind) for kind in tables]):
        for kind in tables:
            frames = [pl.read_parquet(files[kind]) for files in traced]
            write_table(table(kind, pl.concat(frames, how="diagonal_relaxed")), run.table(kind))


def _trace(
    model: LanguageModel, name: str, settings: Circuits, seed: int, progress: Progress
) -> Tables:
    """The tables of one model; only a row of `circuits` where it cannot do the task."""
    prompts = Prompts(settings.n_prompts, settings.length, settings.repeat, seed, settings.batch)
    own = {"model": name, "architecture": model.architecture}
    about = own | {
        "n_layers": model.n_layers,
        "task": settings.task,
        "n_prompts": settings.n_prompts,
        "length": settings.length,
        "repeat": settings.repeat,
    }
    try:
        with progress.stage(f"patch paths in {name}") as bar:
            circuit = trace_induction(model, prompts, bar.advance)
    except Unable as unable:
        row = about | unable.ability.columns() | {"able": False, "reason": unable.requirement}
        progress.note(str(unable))
        return {kind: table(kind, []) for kind in STUDY_TABLES} | {
            "circuits": table("circuits", [row])
        }
    with progress.stage(f"off by one in {name}", 2 * len(prompts)) as bar:
        offset = off_by_one(model, prompts, circuit.key, bar.advance)
    discoveries: dict[str, Discovery] = {}
    with progress.stage(f"discover edges of {name}", len(DISCOVERY_CORRUPTIONS)) as bar:
        for corruption in DISCOVERY_CORRUPTIONS:
            pairs = prompts.pairs(model, corruption)[: settings.discovery_prompts]
            n = settings.validated_edges
            discoveries[corruption] = discover(model, pairs, n_top=n, n_random=n, seed=seed)
            bar.advance(1)
    effects = (own | {"task": settings.task} | r for e in circuit.effects for r in e.rows(seed))
    return {
        "circuits": table("circuits", [about | _circuit_row(circuit, offset, discoveries)]),
        "effects": table("effects", effects),
        "roles": table("roles", (own | role.columns() for role in circuit.roles)),
        "offsets": table("offsets", (own | r for part in offset.profiles for r in part.rows())),
        "edges": pl.concat(
            table("edges", _kept(discovery).with_columns(**_constants(own, corruption=corruption)))
            for corruption, discovery in discoveries.items()
        ),
    }


def _constants(*given: Mapping[str, str], **more: str) -> dict[str, pl.Expr]:
    """Columns that are the same in all rows."""
    return {name: pl.lit(value) for part in (*given, more) for name, value in part.items()}


def _circuit_row(
    circuit: Circuit, offset: OffByOne, discoveries: Mapping[str, Discovery]
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "able": True,
        "reason": "",
        "key": circuit.key,
        "discovery_recall": recall(circuit, discoveries),
    }
    row |= circuit.ability.columns() | offset.columns()
    row |= circuit.faithfulness.score.columns("faithfulness")
    for corruption, discovery in discoveries.items():
        for group in discovery.correlation.iter_rows(named=True):
            for kind in ("pearson", "spearman"):
                row[f"{corruption}_{kind}_{group['edges']}"] = group[kind]
    return row


def _kept(discovery: Discovery) -> pl.DataFrame:
    """Edges that were patched for real, then the strongest of the others."""
    keys = ["sender", "receiver", "tap", "position"]
    patched, strongest = discovery.validation, discovery.edges.head(KEPT_EDGES)
    rest = strongest.join(patched, on=keys, how="anti", nulls_equal=True)
    return pl.concat([patched, rest], how="diagonal_relaxed")
