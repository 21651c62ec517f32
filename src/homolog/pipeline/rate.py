"""A language model rates features of a finished run; what reads the ratings is made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from homolog.analyses import ANALYSES
from homolog.analyses.material import Material
from homolog.analyses.ratings import VERSION, Budget, Endpoint
from homolog.analyses.ratings.cases import Case, chosen_cases
from homolog.analyses.ratings.rating import estimate, rate
from homolog.engine import InProcess
from homolog.errors import InputError
from homolog.pipeline.analyses import run_analyses
from homolog.pipeline.context import Context
from homolog.pipeline.finish import finish
from homolog.pipeline.models import models_of
from homolog.progress import Progress
from homolog.record.recipe import Recipe
from homolog.record.run_folder import RunFolder
from homolog.record.tables import RATINGS

ANSWERS = "ratings"
"""Folder of the run in which answers are kept."""


def rate_run(
    path: Path,
    endpoint: Endpoint,
    n_features: int,
    budget: Budget,
    progress: Progress,
    say: Callable[[str], None],
    *,
    seed: int = 0,
) -> Path:
    """Rate up to `n_features` of each compared model; the run's page, which tells of it.

    Writes the table `RATINGS`.  Says before it starts what it will cost at most.  Answers lie in
    the run's folder `ratings`: asking again with the same model costs nothing, and a call that was
    stopped goes on.  InputError when the run has no examples.
    """
    run = RunFolder.open(path, RunFolder(path).recipe)
    try:
        material = _material(run)
        cases = chosen_cases(material, n_features, seed)
        _rate(run, endpoint, cases, budget, progress, say)
        _make_again(run, material, progress)
        return run.report_folder / "index.html"
    finally:
        run.close()


def _material(run: RunFolder) -> Material:
    """What the run is made of, whole; InputError where it has no examples to show."""
    if not run.vocabulary.is_file():
        raise InputError(
            "run folder",
            str(run.path),
            "it has no examples of its features",
            "Finish the run with an [interpretation] table in its recipe.",
        )
    run.require_whole(*(path for path in run.told if path != run.table(RATINGS)))
    recipe = Recipe.parse(run.recipe)
    return Material(run.path.absolute(), recipe, models_of(recipe))


def _rate(
    run: RunFolder,
    endpoint: Endpoint,
    cases: list[Case],
    budget: Budget,
    progress: Progress,
    say: Callable[[str], None],
) -> None:
    """Ask, and write the ratings as a stage of their own."""
    answers = run.path / ANSWERS
    requests, tokens, known = estimate(endpoint, cases, answers)
    say(
        f"{len(cases)} features: at most {requests} requests, about {tokens:,} tokens; "
        f"{known} answers are there."
    )
    with progress.stage(f"ask {endpoint.model}", len(cases)) as bar:
        table, tally = rate(endpoint, cases, answers, budget, lambda done: bar.advance(1))
    spent = (
        f"{tally.requests} requests, {tally.tokens:,} tokens, {tally.cached} answers from before"
    )
    over = f", {tally.refused} not asked: the budget was spent" if tally.refused else ""
    say(f"{spent}; {tally.malformed} malformed{over}.")
    with run.stage("ratings", [run.table(RATINGS)]) as facts:
        RATINGS.write(table, run.table(RATINGS))
        facts |= {
            "rater": endpoint.model,
            "prompts": VERSION,
            "malformed": tally.malformed,
            "refused": tally.refused,
        }


def _make_again(run: RunFolder, material: Material, progress: Progress) -> None:
    """The analyses that read the ratings, and the report."""
    context = Context(run, material, InProcess(), progress, threads=None, task_bytes=0)
    run_analyses(context, [analysis for analysis in ANALYSES if RATINGS in analysis.reads])
    finish(run, progress)
