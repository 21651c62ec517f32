"""Contexts of one meaning are alike, of several less so, of none not; a slow computation."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from tests.analyses.streams import features_of, random_features, random_stream, windows_of

from homolog.analyses.features.measure import consistency, example_kernels
from homolog.analyses.features.measure.consistency import (
    BEFORE,
    REFERENCE,
    SAMPLE,
    inverse_frequency,
)
from homolog.analyses.features.measure.consistency_kernels import draw
from homolog.analyses.features.measure.example_kernels import Block, column_blocks
from homolog.corpus import TokenWindows
from homolog.errors import InputError

N_DOCUMENTS, LENGTH, N_IDS = 400, 60, 3000
TOPICS, TOPIC_WORDS = 8, 30
PHRASES = {1: range(2900, 2906), 2: range(2906, 2912)}


@functools.cache
def text() -> tuple[TokenWindows, np.ndarray]:
    """Random words by Zipf's law, half of a document's of its topic; two phrases in many places.

    Returns the windows, one per document, and the topic of each.
    """
    rng = np.random.default_rng(0)
    p = 1 / np.arange(10, 2500)
    tokens = rng.choice(2490, (N_DOCUMENTS, LENGTH), p=p / p.sum())
    topic = np.arange(N_DOCUMENTS) % TOPICS
    words = 2500 + TOPIC_WORDS * topic[:, None] + rng.integers(0, TOPIC_WORDS, tokens.shape)
    tokens = np.where(rng.random(tokens.shape) < 1 / 2, words, tokens)
    for phrase in PHRASES.values():
        for d in rng.choice(N_DOCUMENTS, 100, replace=False):
            at = int(rng.integers(0, LENGTH - 6))
            tokens[d, at : at + 6] = phrase
    return windows_of(tokens), topic


def measured(fires: np.ndarray, **options: float) -> float:
    """Consistency of a feature that fires with 1 at some places (windows, context)."""
    windows, _ = text()
    return float(consistency(features_of(1.0 * fires[..., None], windows), windows, **options)[0])


def scattered(places: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Some of the places, at random."""
    chosen = np.zeros(places.size, bool)
    chosen[np.random.default_rng(seed).choice(np.flatnonzero(places), n, replace=False)] = True
    return chosen.reshape(places.shape)


def test_meanings_come_out_in_their_order() -> None:
    windows, topic = text()
    token, late = windows.tokens, np.arange(LENGTH) >= BEFORE  # with a whole context before
    rare = [np.isin(token, [t]) for t in (100, 110, 120, 130)]
    topics = [scattered((topic == t)[:, None] & late, 60, t) for t in range(4)]
    one_token, one_phrase = measured(rare[0]), measured(token == PHRASES[1][-1])
    one_topic, two_topics = measured(topics[0]), measured(topics[0] | topics[1])
    four_topics, chance = (
        measured(np.any(topics, axis=0)),
        measured(scattered(late & (token >= 0), 300, 9)),
    )
    assert one_phrase == pytest.approx(1, abs=0.02) and one_token == pytest.approx(1, abs=0.02)
    assert one_token > one_topic > two_topics > four_topics > chance
    assert one_topic > 0.4 and abs(chance) < 0.1
    # a feature of k meanings: the pairs within one of them, 1 in k, and chance for the rest
    assert two_topics == pytest.approx(one_topic / 2, abs=0.1)
    assert four_topics == pytest.approx(one_topic / 4, abs=0.1)
    assert measured(np.any(rare, axis=0)) == pytest.approx(1 / 4, abs=0.12)
    both = measured(np.isin(token, [phrase[-1] for phrase in PHRASES.values()]))
    assert both == pytest.approx(1 / 2, abs=0.1)


def test_without_the_current_token_a_phrase_stays_and_a_token_goes() -> None:
    windows, _ = text()
    assert measured(windows.tokens == 100, token_share=0.0) == pytest.approx(0, abs=0.12)
    assert measured(windows.tokens == PHRASES[1][-1], token_share=0.0) > 0.8
    assert (
        measured(windows.tokens == PHRASES[1][0], token_share=0.0) < 0.2
    )  # the phrase only begins


def test_the_weight_of_activations_decides() -> None:
    windows, _ = text()
    faint = features_of(
        (windows.tokens == 100)[..., None]
        + 1e-4 * scattered(windows.tokens > 0, 300, 1)[..., None],
        windows,
    )
    assert consistency(faint, windows)[0] > 0.9


def slow(drawn: np.ndarray, windows: TokenWindows, share: float) -> float:
    """The formula for the places drawn, with all kept tokens of the stream as reference."""
    place, token = np.flatnonzero(windows.mask), windows.tokens.reshape(-1)
    document, kept = windows.document.reshape(-1), windows.mask.reshape(-1)
    held = [set(t[m]) for t, m in zip(windows.tokens, windows.mask, strict=True)]

    @functools.cache
    def bag(flat: int) -> np.ndarray:
        start = flat // windows.context * windows.context
        before = [p for p in range(start, flat) if kept[p] and document[p] == document[flat]][
            -BEFORE:
        ]
        found = np.zeros(token.max() + 1)
        for p in before:
            found[token[p]] += math.log(len(windows) / sum(token[p] in h for h in held))
        return found / max(np.linalg.norm(found), 1e-300)

    def alike(i: int, j: int) -> float:
        return share * (token[i] == token[j]) + (1 - share) * float(bag(i) @ bag(j))

    scores = []
    for i in drawn:
        others = np.array([alike(i, r) for r in place if document[r] != document[i]])
        for s in [alike(i, j) for j in drawn if document[j] != document[i]]:
            scores.append((others < s - 1e-6) * 1.0 + (others < s + 1e-6) - 1)
    return float(np.concatenate(scores).mean())


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_equal_to_a_slow_computation(share: float) -> None:
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, 15, (12, 20))
    document = 2 * np.arange(12)[:, None] + (np.arange(20) >= rng.integers(5, 15, (12, 1)))
    windows = windows_of(tokens, document, rng.random(tokens.shape) > 0.1)
    assert windows.mask.sum() <= REFERENCE
    values = np.zeros((int(windows.mask.sum()), 5))
    for feature in range(5):  # in 3, 7, 11, ... documents
        for d in rng.choice(np.unique(document), 3 + 4 * feature, replace=False):
            values[rng.choice(np.flatnonzero(windows.token_document == d)), feature] = rng.uniform(
                0.5, 1
            )
    x = features_of(values, windows)
    (block,) = column_blocks(x)
    rows = draw(block, 4, SAMPLE)
    found = consistency(x, windows, token_share=share, seed=4)
    assert math.isnan(found[0])
    expected = [slow(np.flatnonzero(windows.mask)[own], windows, share) for own in rows[1:]]
    np.testing.assert_allclose(found[1:], expected, atol=1e-5)


def test_words_weigh_by_how_few_windows_hold_them() -> None:
    windows = windows_of(
        np.array([[0, 0, 1], [0, 2, 2], [0, 3, 4], [0, 1, 5]]),
        mask=np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0]], bool),
    )
    expected = [0, math.log(2), math.log(4), math.log(4), math.log(4), 0]
    np.testing.assert_allclose(inverse_frequency(windows), expected)


def test_positions_are_drawn_by_their_activation() -> None:
    value, n = np.float32([3, 1, 4, 1, 1]), 2000  # the same feature 2,000 times
    start, row = 5 * np.arange(n + 2), np.tile(np.arange(10, 15, dtype=np.int32), n)
    start[-1] = start[-2]  # and one that never fires
    rows = draw(Block(0, start, row, np.tile(value, n)), 5, 4)
    assert (rows[-1] == -1).all()
    for r, share in enumerate(value / 10):
        drawn = (rows[:-1] == 10 + r).mean(axis=1)  # of 4 draws, one from each quarter of the sum
        assert drawn.mean() == pytest.approx(
            share, abs=5 * math.sqrt(share * (1 - share) / (4 * n))
        )
    assert set(rows[:-1, 0]) == {10} and set(rows[:-1, 1]) == {10, 11, 12}


def test_the_seed_and_nothing_else_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = random_stream(2, n_windows=60, n_ids=200)
    x = random_features(windows, 12, 2)
    once = consistency(x, windows)
    assert math.isnan(once[0]) and not np.isnan(once[1:]).any()
    assert not np.array_equal(once[1:], consistency(x, windows, seed=1)[1:])
    monkeypatch.setattr(example_kernels, "BLOCK_ENTRIES", 300)
    assert consistency(x, windows).tobytes() == once.tobytes()


def test_errors() -> None:
    windows = random_stream(0)
    x = random_features(windows, 2, 0)
    with pytest.raises(InputError, match="encoded on the stream"):
        consistency(x, random_stream(1))
    with pytest.raises(InputError, match=r"token_share is 1\.5, but it must lie between 0 and 1"):
        consistency(x, windows, token_share=1.5)
