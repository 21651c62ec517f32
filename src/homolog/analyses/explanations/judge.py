"""Explanations, ratings and detection scores of features.

For each feature the judge sees `SHOWN` of its texts and explains them, with complexity and
consistency from 1 to 5. Then it is given its own words and `2 * TESTED` texts that it has not seen,
half of them with the feature active at the marked token, half without, and says where the feature
is active:

    detection = (share of active texts found + share of silent texts left out) / 2        0.5 is chance

Held-out active texts come from all quantiles; silent ones are texts of other features of the same
layer, in which this one is 0 throughout.  Detection follows "scoring by detection" [Paulo et al.,
"Automatically Interpreting Millions of Features in Large Language Models", 2024, arXiv 2410.13928];
the ratings follow the scales of complexity and monosemanticity of the same question for all models,
so that they can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from homolog.analyses.explanations import prompts
from homolog.analyses.explanations.asking import (
    Budget,
    Endpoint,
    Question,
    Tally,
    ask,
    cached,
    connect,
)
from homolog.analyses.explanations.prompts import Context
from homolog.corpus import TokenText, joined
from homolog.features import SparseFeatures

SHOWN = 10
TESTED = 5
ANSWER_TOKENS = {"explain": 300, "detect": 100}
JUDGED_SCHEMA = {
    "model": pl.String,
    "layer": pl.Int32,
    "feature": pl.Int32,
    "explanation": pl.String,
    "complexity": pl.Int8,
    "consistency_judged": pl.Int8,
    "detection": pl.Float32,
    "n_tested": pl.Int16,
    "judge": pl.String,
    "prompts": pl.String,
}


@dataclass(frozen=True)
class Case:
    """A feature with the texts to explain, and those to test the explanation on; `active` says of
    each which it is.
    """

    model: str
    layer: int
    feature: int
    shown: tuple[Context, ...]
    tested: tuple[Context, ...]
    active: tuple[bool, ...]

    def explain(self) -> Question:
        highest = max(value for context in self.shown for value in context.values)
        return Question(prompts.explain(self.shown, highest), ANSWER_TOKENS["explain"])

    def detect(self, explanation: str) -> Question:
        return Question(prompts.detect(explanation, self.tested), ANSWER_TOKENS["detect"])


def cases(
    features: SparseFeatures,
    contexts: pl.DataFrame,
    vocabulary: Sequence[TokenText],
    wanted: Iterable[int],
    seed: int,
) -> Iterator[Case]:
    """A case for each wanted feature of a layer that has texts enough: `SHOWN` + `TESTED`, or half
    of each.

    features: of the layer.  contexts: its examples (`examples`).  vocabulary: what each token id
    stands for (`corpus.token_texts`).  Deterministic: the same seed, layer and feature give the
    same case.
    """
    silent = contexts.filter(pl.col("quantile") == 1.0, pl.col("rank") < 4)
    columns = features.matrix.tocsc()
    columns.sort_indices()
    groups = contexts.partition_by("feature", as_dict=True)
    for feature in wanted:
        own = groups.get((feature,))
        if own is None or own.height < (SHOWN + TESTED) // 2:
            continue
        rng = np.random.default_rng([seed, features.layer, feature])
        shown, held = _split(own, rng)
        rows = columns.indices[columns.indptr[feature] : columns.indptr[feature + 1]]
        others = silent.filter(pl.col("feature") != feature)
        quiet = _silent(others, rows, len(held), rng)
        if not len(quiet):
            continue
        tested = [(_context(row, vocabulary), True) for row in held.iter_rows(named=True)]
        tested += [(_context(row, vocabulary), False) for row in quiet.iter_rows(named=True)]
        order = rng.permutation(len(tested))
        yield Case(
            features.name,
            features.layer,
            feature,
            tuple(_context(row, vocabulary) for row in shown.iter_rows(named=True)),
            tuple(tested[i][0] for i in order),
            tuple(tested[i][1] for i in order),
        )


def estimate(endpoint: Endpoint, found: Sequence[Case], folder: Path) -> tuple[int, int, int]:
    """(requests, tokens, answers already there) of judging the cases, at most: tokens are estimated
    from characters.
    """
    requests = tokens = known = 0
    placeholder = "x" * 300  # an explanation of usual length
    for case in found:
        explain = case.explain()
        if (answer := cached(endpoint, explain, folder)) is None:
            requests, tokens = (
                requests + 2,
                tokens + explain.tokens() + case.detect(placeholder).tokens(),
            )
            continue
        known += 1
        read = prompts.read_explanation(answer.reply)
        if read is not None and cached(endpoint, detect := case.detect(read.text), folder) is None:
            requests, tokens = requests + 1, tokens + detect.tokens()
        else:
            known += read is not None
    return requests, tokens, known


def judge(
    endpoint: Endpoint,
    found: Sequence[Case],
    folder: Path,
    budget: Budget = Budget(),  # noqa: B008 (it is immutable)
    report: Callable[[int], None] = lambda done: None,
) -> tuple[pl.DataFrame, Tally]:
    """(`JUDGED_SCHEMA`, one row a case in their order, what was spent).

    folder: where answers are kept.  Columns are null where an answer was malformed or the budget
    did not reach.
    report: told the number of cases done.  Raises InputError when the endpoint fails; answers so
    far are kept.
    """
    tally = Tally()
    rows: list[dict[str, object]] = [{} for _ in found]
    if found:
        client = connect(endpoint)
        done = 0

        def one(number: int) -> None:
            nonlocal done
            rows[number] = _judge_one(client, endpoint, found[number], folder, budget, tally)
            with tally.lock:
                done += 1
                report(done)

        with ThreadPoolExecutor(endpoint.concurrency) as pool:
            futures = [pool.submit(one, number) for number in range(len(found))]
            try:
                finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    named = [
        {
            "model": case.model,
            "layer": case.layer,
            "feature": case.feature,
            "judge": endpoint.model,
            "prompts": prompts.VERSION,
        }
        | row
        for case, row in zip(found, rows, strict=True)
    ]
    return pl.DataFrame(named, schema=JUDGED_SCHEMA), tally


def _judge_one(
    client: object, endpoint: Endpoint, case: Case, folder: Path, budget: Budget, tally: Tally
) -> dict[str, object]:
    answer = ask(client, endpoint, case.explain(), folder, budget, tally)
    if answer is None:
        return {}
    explained = prompts.read_explanation(answer.reply)
    if explained is None:
        _count_malformed(tally)
        return {}
    row: dict[str, object] = {
        "explanation": explained.text,
        "complexity": explained.complexity,
        "consistency_judged": explained.consistency,
    }
    answer = ask(client, endpoint, case.detect(explained.text), folder, budget, tally)
    if answer is None:
        return row
    named = prompts.read_detection(answer.reply, len(case.tested))
    if named is None:
        _count_malformed(tally)
        return row
    return row | {"detection": detection(case.active, named), "n_tested": len(case.active)}


def detection(active: Sequence[bool], named: frozenset[int]) -> float:
    """Balanced accuracy of the texts named as active: see the module's opening."""
    truth = np.asarray(active)
    said = np.isin(np.arange(len(truth)), list(named))
    return float(said[truth].mean() + (~said[~truth]).mean()) / 2


def _count_malformed(tally: Tally) -> None:
    with tally.lock:
        tally.malformed += 1


def _split(own: pl.DataFrame, rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(texts to explain, texts held out): of each quantile every third is held out, all in random
    order.
    """
    order = own.sort("quantile", "rank", descending=[True, False]).with_row_index("_at")
    held = order.filter(pl.col("_at") % 3 == 2)
    shown = order.filter(pl.col("_at") % 3 != 2)
    pick = np.sort(rng.permutation(held.height)[:TESTED])
    return shown.head(SHOWN).drop("_at"), held[pick].drop("_at")


def _silent(
    others: pl.DataFrame, rows: np.ndarray, n: int, rng: np.random.Generator
) -> pl.DataFrame:
    """Up to `n` texts, in random order, in which a feature is 0: `rows` are the rows at which it is
    not, ascending.
    """
    order = others[rng.permutation(others.height)[: 20 * n]]
    before = order["position"].to_numpy().astype(np.int64) - order["start"].to_numpy()
    length = order["tokens"].list.len().to_numpy().astype(np.int64)
    row = order["row"].to_numpy()
    first, last = (
        row - before,
        row - before + length,
    )  # masked tokens have no row: this spans them and a few more
    quiet = np.searchsorted(rows, first) == np.searchsorted(rows, last)
    return (
        order.filter(quiet)
        .head(n)
        .with_columns(
            values=pl.lit(0.0).repeat_by(pl.col("tokens").list.len()).cast(pl.List(pl.Float32))
        )
    )


def _context(row: dict[str, Any], vocabulary: Sequence[TokenText]) -> Context:
    """The tokens of an example, those that spell one character together being one, with their
    highest value.
    """
    tokens = [vocabulary[token] for token in row["tokens"]]
    texts, values, at, highest = [], [], 0, 0.0
    for place, (token, shown, value) in enumerate(
        zip(tokens, joined(tokens), row["values"], strict=True)
    ):
        highest = max(highest, value)
        if place == row["position"] - row["start"]:
            at = len(texts)
        if shown or isinstance(token, str):  # else the character ends at a later token
            texts.append(shown)
            values.append(highest)
            highest = 0.0
    return Context(tuple(texts), tuple(values), at)
