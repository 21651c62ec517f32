"""Explanations, ratings and detection scores of features.

For each feature the language model explains texts in which it is active, with complexity and
consistency from 1 to 5.  Then it is given its own words and texts that it has not seen, and says in
which of them the feature is active at the marked token:

    detection = (share of active texts named + share of silent texts left out) / 2     0.5 is chance

The same words are tested on texts of the feature's partner, and on those of another feature of the
partner's layer, where they should tell nothing (`cases`).

Detection follows "scoring by detection" [Paulo et al., "Automatically Interpreting Millions of
Features in Large Language Models", 2024, arXiv 2410.13928]; the ratings follow the scales of
complexity and monosemanticity of the same question for all models, so that they can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from homolog.analyses.ratings import prompts
from homolog.analyses.ratings.asking import Budget, Endpoint, Tally, ask, cached, connect
from homolog.analyses.ratings.cases import Case
from homolog.record.tables import RATINGS


def estimate(endpoint: Endpoint, cases: Sequence[Case], folder: Path) -> tuple[int, int, int]:
    """(requests, tokens, answers already there) of rating the cases, at most.

    Tokens are estimated from characters.
    """
    requests = tokens = known = 0
    placeholder = "x" * 300  # an explanation of usual length
    for case in cases:
        explain = case.explain()
        if (answer := cached(endpoint, explain, folder)) is None:
            asked = [explain, *(case.detect(placeholder, whose) for whose in case.tests)]
        else:
            known += 1
            read = prompts.read_explanation(answer.reply)
            tests = () if read is None else [case.detect(read.text, w) for w in case.tests]
            asked = [test for test in tests if cached(endpoint, test, folder) is None]
            known += len(tests) - len(asked)
        requests += len(asked)
        tokens += sum(question.tokens() for question in asked)
    return requests, tokens, known


def rate(
    endpoint: Endpoint,
    cases: Sequence[Case],
    folder: Path,
    budget: Budget = Budget(),  # noqa: B008 (it is immutable)
    report: Callable[[int], None] = lambda done: None,
) -> tuple[pl.DataFrame, Tally]:
    """(`RATINGS`, one row per case in their order, what was spent).

    folder: where answers are kept.  Columns are null where an answer was malformed or the budget
    did not reach.
    report: told the number of cases done.  Raises InputError when the endpoint fails; answers so
    far are kept.
    """
    tally = Tally()
    rows: list[dict[str, Any]] = [{} for _ in cases]
    if cases:
        client = connect(endpoint)
        with ThreadPoolExecutor(endpoint.concurrency) as pool:
            asked = {
                pool.submit(_rate_one, client, endpoint, case, folder, budget, tally): number
                for number, case in enumerate(cases)
            }
            try:
                for done, future in enumerate(as_completed(asked), 1):
                    rows[asked[future]] = future.result()
                    report(done)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    by = {"rater": endpoint.model, "prompts": prompts.VERSION}
    places = [{"model": c.model, "layer": c.layer, "feature": c.feature} for c in cases]
    for place, case in zip(places, cases, strict=True):
        partner = case.partner or (None, None, None)
        place |= dict(zip(("best_model", "best_layer", "best_feature"), partner, strict=True))
    return RATINGS.frame([place | by | row for place, row in zip(places, rows, strict=True)]), tally


def _rate_one(
    client: object, endpoint: Endpoint, case: Case, folder: Path, budget: Budget, tally: Tally
) -> dict[str, Any]:
    answer = ask(client, endpoint, case.explain(), folder, budget, tally)
    if answer is None:
        return {}
    explained = prompts.read_explanation(answer.reply)
    if explained is None:
        tally.count_malformed()
        return {}
    row: dict[str, Any] = {
        "explanation": explained.text,
        "complexity": explained.complexity,
        "consistency_rated": explained.consistency,
    }
    for whose, test in case.tests.items():
        question = case.detect(explained.text, whose)
        answer = ask(client, endpoint, question, folder, budget, tally)
        if answer is None:
            continue
        named = prompts.read_detection(answer.reply, len(test.texts))
        if named is None:
            tally.count_malformed()
            continue
        row[f"{whose}detection"] = detection(test.active, named)
        row[f"{whose}n_tested"] = len(test.texts)
    return row


def detection(active: Sequence[bool], named: frozenset[int]) -> float:
    """Balanced accuracy of the texts named as active: see the module's opening."""
    truth = np.asarray(active)
    said = np.isin(np.arange(len(truth)), list(named))
    return float(said[truth].mean() + (~said[~truth]).mean()) / 2
