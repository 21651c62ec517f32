"""A language model judges features of a finished run: chosen across all heights of r, asked, kept,
related to r.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from homolog.analyses.explanations import VERSION, Budget, Case, Endpoint, cases, estimate, judge
from homolog.errors import InputError
from homolog.features import SparseFeatures, load_features
from homolog.pipeline.finish import write_table
from homolog.pipeline.interpret import relate_run
from homolog.progress import Progress
from homolog.record.run_folder import RunFolder
from homolog.report import write_report

BINS = np.linspace(0, 1, 11)  # of r, from which features are drawn alike


def judge_run(
    path: Path,
    endpoint: Endpoint,
    n_features: int,
    budget: Budget,
    progress: Progress,
    say: Callable[[str], None],
    *,
    seed: int = 0,
) -> Path:
    """Judge up to `n_features` of each compared model; writes judged.parquet and the report again,
    returns its page.

    Says before it starts what it will cost at most.  Answers lie in the run's folder `judge`:
    asking again with the same model costs nothing, and a call that was stopped goes on.  InputError
    when the run has no examples.
    """
    run = RunFolder.open(path, RunFolder(path).recipe)
    try:
        answers = run.path / "judge"
        found = _cases(run, n_features, seed)
        requests, tokens, known = estimate(endpoint, found, answers)
        say(
            f"{len(found)} features: at most {requests} requests, about {tokens:,} tokens; "
            f"{known} answers are there."
        )
        with progress.stage(f"ask {endpoint.model}", len(found)) as bar:
            done = 0

            def report(now: int) -> None:
                nonlocal done
                bar.advance(now - done)
                done = now

            table, tally = judge(endpoint, found, answers, budget, report)
        spent = f"{tally.requests} requests, {tally.tokens:,} tokens, {tally.cached} answers from before"
        over = f", {tally.refused} not asked: the budget was spent" if tally.refused else ""
        say(f"{spent}; {tally.malformed} malformed{over}.")
        with run.stage("judge", [run.table("judged")]) as facts:
            write_table(table, run.table("judged"))
            facts |= {
                "judge": endpoint.model,
                "prompts": VERSION,
                "malformed": tally.malformed,
                "refused": tally.refused,
            }
        relate_run(run)
        with run.stage("report", [run.report_folder]):
            write_report(run.path)
        return run.report_folder / "index.html"
    finally:
        run.close()


def _cases(run: RunFolder, n_features: int, seed: int) -> list[Case]:
    if not run.vocabulary.is_file():
        raise InputError(
            "run folder",
            str(run.path),
            "it has no examples of its features",
            "Finish the run with an [interpretation] table in its recipe.",
        )
    run.require_whole(*run.told)
    texts = json.loads(run.vocabulary.read_text("utf-8"))
    matches = pl.read_parquet(run.matches).filter(pl.col("comparison") == "main")
    found: list[Case] = []
    for name in run.record["compared"]:
        best = matches.filter(pl.col("model") == name).group_by(
            "layer", "feature", maintain_order=True
        )
        wanted = _spread(
            best.agg(pl.col("r").max()).filter(pl.col("r").is_finite()), n_features, seed
        )
        for (layer,), part in wanted.group_by("layer", maintain_order=True):
            contexts = run.contexts(name, int(layer))  # type: ignore[call-overload]
            features = load_features(run.feature_folder(name, int(layer)))  # type: ignore[call-overload]
            assert isinstance(features, SparseFeatures)
            found += cases(
                features, pl.read_parquet(contexts), texts, part["feature"].to_list(), seed
            )
    return found


def _spread(rows: pl.DataFrame, n: int, seed: int) -> pl.DataFrame:
    """About `n` features, as many from each bin of r as there are, in the order of layer and
    feature.
    """
    order = np.random.default_rng(seed).permutation(rows.height)
    shuffled = rows[order].with_columns(
        bin=pl.Series(np.clip(np.digitize(rows["r"].to_numpy()[order], BINS), 1, 10))
    )
    turn = shuffled.with_columns(turn=pl.int_range(pl.len()).over("bin"))
    return turn.sort("turn", "bin").head(n).sort("layer", "feature")
