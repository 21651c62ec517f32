"""Examples are the highest activations, distinct, and draws from bands of its own values."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from tests.analyses.streams import features_of, random_features, random_stream, windows_of

from homolog.analyses.features.measure import example_kernels, examples
from homolog.analyses.features.measure.example_kernels import column_blocks
from homolog.corpus import TokenWindows
from homolog.errors import InputError
from homolog.features import SparseFeatures
from homolog.record.tables import CONTEXTS


def shown(windows: TokenWindows, flat: int, before: int, after: int) -> list[int]:
    """Flattened places shown around one: within its window and its document."""
    window, document = flat // windows.context, windows.document.reshape(-1)
    near = range(flat - before, flat + after + 1)
    return [
        p
        for p in near
        if 0 <= p < document.size
        and p // windows.context == window
        and document[p] == document[flat]
    ]


def slow_top(
    x: SparseFeatures, windows: TokenWindows, feature: int, top: int, before: int, after: int
) -> list[int]:
    """Rows of the top examples, by going down the values."""
    value, place = x.matrix.toarray()[:, feature], np.flatnonzero(windows.mask)
    tokens = windows.tokens.reshape(-1)
    found: list[int] = []
    seen: set[int] = set()
    texts: set[tuple[int, ...]] = set()
    for row in sorted(np.flatnonzero(value), key=lambda r: (-value[r], r)):
        around = shown(windows, place[row], before, after)
        text = tuple(tokens[[p for p in around if p <= place[row]][-8:]])
        if len(found) < top and not seen & set(around) and text not in texts:
            found.append(int(row))
            seen |= set(around)
            texts.add(text)
    return found


def test_highest_first_with_what_stands_around_them() -> None:
    tokens = np.arange(30).reshape(3, 10)
    values = np.zeros((3, 10, 2))
    values[0, 4, 1], values[1, 9, 1], values[2, 0, 1], values[1, 8, 1] = 2.0, 5.0, 3.0, 1.0
    windows = windows_of(tokens)
    found = examples(
        features_of(values, windows), windows, top=3, per_quantile=0, before=2, after=1
    )
    assert dict(found.schema) == CONTEXTS.schema
    assert found["feature"].to_list() == [1, 1, 1]
    assert found["rank"].to_list() == [0, 1, 2]
    assert found["quantile"].to_list() == [1.0, 1.0, 1.0]
    assert found["row"].to_list() == [19, 20, 4]
    assert found["document"].to_list() == found["window"].to_list() == [1, 2, 0]
    assert found["position"].to_list() == [9, 0, 4]
    assert found["value"].to_list() == [5.0, 3.0, 2.0]
    assert found["start"].to_list() == [7, 0, 2]
    assert found["tokens"].to_list() == [[17, 18, 19], [20, 21], [2, 3, 4, 5]]
    assert found["values"].to_list() == [[0, 1, 5], [3, 0], [0, 0, 2, 0]]


def test_a_repeated_sentence_is_shown_once() -> None:
    sentence = list(range(10))
    tokens = np.array([[50 + w] * 3 + sentence for w in range(6)])
    tokens[5, 6] = 99  # 6 places before the end: another text
    values = np.zeros((6, 13, 1))
    values[:, 12, 0] = [1, 2, 3, 6, 5, 4]
    windows = windows_of(tokens)
    found = examples(features_of(values, windows), windows, per_quantile=0)
    assert found["window"].to_list() == [3, 5]


def test_a_place_is_shown_once_though_the_feature_fires_all_along() -> None:
    windows = windows_of(np.arange(200).reshape(2, 100))
    found = examples(
        features_of(np.ones((2, 100, 1)), windows),
        windows,
        top=50,
        per_quantile=0,
        before=3,
        after=1,
    )
    taken = set()
    for start, tokens, window in found.select("start", "tokens", "window").iter_rows():
        here = {(window, start + i) for i in range(len(tokens))}
        assert not taken & here
        taken |= here
    # equal values: the first rows first; [0, 2), then spans of 5 whose place is the fourth token
    assert found["row"].to_list()[:3] == [0, 5, 10]


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_a_slow_search(seed: int) -> None:
    windows = random_stream(seed)
    x = random_features(windows, 12, seed)
    dense, place = x.matrix.toarray(), np.flatnonzero(windows.mask)
    found = examples(
        x, windows, top=5, per_quantile=2, quantiles=(0.7, 0.3), before=6, after=2, seed=seed
    )
    assert found.equals(
        found.sort(["feature", "quantile", "rank"], descending=[False, True, False])
    )
    full = np.zeros((windows.tokens.size, 12), np.float32)
    full[place] = dense
    for feature in range(12):
        own = found.filter(pl.col("feature") == feature)
        top = own.filter(pl.col("quantile") == 1)
        assert top["row"].to_list() == slow_top(x, windows, feature, 5, 6, 2)
        seen: set[int] = set()
        for row in own.iter_rows(named=True):
            flat = place[row["row"]]
            around = shown(windows, flat, 6, 2)
            assert not seen & set(around)
            seen |= set(around)
            assert row["tokens"] == windows.tokens.reshape(-1)[around].tolist()
            assert row["values"] == full[around, feature].tolist()
            assert row["start"] == around[0] % windows.context
            assert (row["window"], row["position"]) == divmod(flat, windows.context)
            assert row["document"] == x.document[row["row"]]
            assert row["value"] == dense[row["row"], feature] > 0
        for q in (0.7, 0.3):
            part = own.filter(pl.col("quantile") == np.float32(q))
            assert len(part) <= 2
            assert part["value"].to_list() == sorted(part["value"], reverse=True)


def isolated(n: int) -> tuple[SparseFeatures, TokenWindows, np.ndarray]:
    """A feature with n different values, each in a window of its own, in random order."""
    value = np.random.default_rng(0).permutation(n) + 1.0
    windows = windows_of(np.arange(2 * n).reshape(n, 2))
    values = np.zeros((n, 2, 1))
    values[:, 0, 0] = value
    return features_of(values, windows), windows, value


def test_quantile_examples_come_from_their_band_evenly() -> None:
    x, windows, value = isolated(400)
    drawn: dict[float, list[float]] = {0.75: [], 0.5: [], 0.25: []}
    for seed in range(300):
        found = examples(x, windows, seed=seed).filter(pl.col("quantile") < 1)
        assert found.group_by("quantile").len()["len"].to_list() == [4, 4, 4]
        for q, own in found.select("quantile", "value").iter_rows():
            drawn[q].append(own)
    for q, own in drawn.items():
        shares = np.array([(value <= v).mean() for v in own])
        assert np.abs(shares - q).max() <= 0.05 + 1 / 400
        _, counts = np.unique(own, return_counts=True)
        assert 40 <= len(counts) <= 41
        # 1,200 draws of about 40 values: 30 each, standard deviation 5.2
        assert counts.min() > 30 - 4.5 * math.sqrt(30) and counts.max() < 30 + 4.5 * math.sqrt(30)


def test_the_seed_and_nothing_else_decides_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = random_stream(7, n_windows=200)
    x = random_features(windows, 20, 7)
    once = examples(x, windows, seed=3)
    assert not once.equals(examples(x, windows, seed=4))
    monkeypatch.setattr(example_kernels, "BLOCK_ENTRIES", 500)
    assert len(list(column_blocks(x))) > 5
    assert once.equals(examples(x, windows, seed=3))


def test_blocks_are_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = random_stream(1)
    x = random_features(windows, 9, 1)
    csc = x.matrix.tocsc()
    for most in (1, 300, 1 << 20):
        monkeypatch.setattr(example_kernels, "BLOCK_ENTRIES", most)
        blocks = list(column_blocks(x))
        np.testing.assert_array_equal(np.concatenate([b.row for b in blocks]), csc.indices)
        np.testing.assert_array_equal(np.concatenate([b.value for b in blocks]), csc.data)
        np.testing.assert_array_equal(
            np.concatenate([np.diff(b.start) for b in blocks]), np.diff(csc.indptr)
        )
        assert [b.first for b in blocks] == [0, *np.cumsum([len(b.start) - 1 for b in blocks])[:-1]]
        assert all(len(b.row) <= most or len(b.start) == 2 for b in blocks)


def test_features_that_never_fire_have_no_examples() -> None:
    windows = windows_of(np.zeros((2, 4)))
    found = examples(features_of(np.zeros((2, 4, 3)), windows), windows)
    assert dict(found.schema) == CONTEXTS.schema and len(found) == 0


def test_stored_zeros_are_not_activations() -> None:
    windows = windows_of(np.arange(8).reshape(2, 4))
    x = features_of(np.ones((2, 4, 1)), windows)
    x.matrix.data[:] = [1, 0, 0, 0, 0, 0, 0, 2]
    assert examples(x, windows)["row"].to_list() == [7, 0]


def test_errors_say_what_to_give() -> None:
    windows = random_stream(0)
    x = random_features(windows, 2, 0)
    with pytest.raises(
        InputError, match=r"encoded on the stream .* Give the windows of the same run"
    ):
        examples(x, random_stream(1))
    with pytest.raises(InputError, match="must descend"):
        examples(x, windows, quantiles=(0.25, 0.75))
    with pytest.raises(InputError, match="must not be negative"):
        examples(x, windows, top=-1)
    x.matrix.data[3] = -1
    with pytest.raises(
        InputError, match=r"activations is -1\.0, but features of a dictionary are 0 or positive"
    ):
        examples(x, windows)
