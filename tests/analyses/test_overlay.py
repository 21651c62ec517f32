"""Both activations on the examples of either: values from both matrices, each place once."""

from __future__ import annotations

import numpy as np
import polars as pl
from tests.analyses.streams import features_of, random_features, random_stream, windows_of

from homolog.analyses.features.measure.examples import examples
from homolog.analyses.overlay.measure import TopExamples, overlay
from homolog.corpus import TokenWindows
from homolog.features import SparseFeatures
from homolog.record.tables import OVERLAY


def top(model: str, features: SparseFeatures, windows: TokenWindows, n: int = 3) -> TopExamples:
    table = examples(features, windows, top=n, per_quantile=0, before=2, after=1)
    return TopExamples(model, 0, table, windows)


def pairs(*features: tuple[int, int]) -> pl.DataFrame:
    return pl.DataFrame(features, schema=["feature", "best_feature"], orient="row")


def test_values_are_the_other_s_at_the_tokens_shown_and_each_place_stands_once() -> None:
    """Windows of 5 tokens, the third masked in the first.

    A's feature fires in window 0 at 3, and in window 1 at 1; B's in window 0 at 3 and 4, and in
    window 2 at 0: its example in window 0 shows what A's does.
    """
    tokens = np.arange(15).reshape(3, 5)
    mask = np.ones((3, 5), bool)
    mask[0, 2] = False
    windows = windows_of(tokens, mask=mask)
    x, y = np.zeros((3, 5, 1)), np.zeros((3, 5, 2))
    x[0, 3, 0], x[1, 1, 0] = 5, 4
    y[0, 3, 1], y[0, 4, 1], y[2, 0, 1] = 3, 1, 2
    y[0, 2, 1] = 9  # is masked: not there
    own, partner = features_of(x, windows), features_of(y, windows)
    found = overlay(
        pairs((0, 1)),
        top("A", own, windows),
        top("B", partner, windows),
        mine=own.matrix,
        theirs=partner.matrix,
    )
    assert dict(found.schema) == OVERLAY.schema
    assert found.rows() == [
        (0, "B", False, 0, [0.0, 0.0, 3.0, 1.0]),  # places 1 to 4 of window 0
        (0, "B", False, 1, [0.0, 0.0, 0.0]),  # places 0 to 2 of window 1
        (0, "B", True, 1, [0.0, 0.0]),  # places 0 and 1 of window 2
    ]


def test_random_streams_as_dense_matrices_have_them() -> None:
    windows = random_stream(0, n_windows=8)  # few places, so that examples of both meet
    own, partner = (random_features(windows, 6, seed) for seed in (1, 2))
    a, b = top("A", own, windows, 6), top("B", partner, windows, 6)
    partners = pairs((1, 5), (2, 3), (5, 5), (4, 0))
    found = overlay(partners, a, b, mine=own.matrix, theirs=partner.matrix)
    dense = {False: _by_place(partner, windows), True: _by_place(own, windows)}
    best = dict(partners.iter_rows())
    seen = set()
    for feature, _, of_partner, rank, values in found.iter_rows():
        whose, other = (best[feature], feature) if of_partner else (feature, best[feature])
        example = (b if of_partner else a).table.filter(feature=whose, rank=rank).row(0, named=True)
        first = example["window"] * windows.context + example["start"]
        shown = dense[of_partner][first : first + len(example["tokens"]), other]
        assert values == shown.tolist()
        seen.add((feature, of_partner, rank))
    wanted = set()
    for feature, other in best.items():
        spans = [_span(row, windows) for row in _rows(a, feature)]
        wanted |= {(feature, False, row["rank"]) for row in _rows(a, feature)}
        for row in _rows(b, other):
            place = row["window"] * windows.context + row["position"]
            if not any(place in span for span in spans):
                wanted.add((feature, True, row["rank"]))
    assert seen == wanted and {of_partner for _, of_partner, _ in seen} == {True, False}
    assert len(seen) < sum(len(_rows(a, f)) + len(_rows(b, g)) for f, g in best.items())


def test_places_of_two_texts_are_not_taken_for_one() -> None:
    """The same example of two texts: it stands for the feature and for its partner."""
    one, two = (windows_of(np.array([[3, 4, first]])) for first in (5, 6))
    x = np.array([[[0.0], [1.0], [0.0]]])
    own, partner = features_of(x, one), features_of(x, two)
    found = overlay(
        pairs((0, 0)),
        top("A", own, one),
        top("B", partner, two),
        mine=own.matrix,
        theirs=own.matrix,
    )
    assert found["of_partner"].to_list() == [False, True]


def _rows(of: TopExamples, feature: int) -> list[dict]:
    return of.table.filter(feature=feature).rows(named=True)


def _span(row: dict, windows: TokenWindows) -> range:
    first = row["window"] * windows.context + row["start"]
    return range(first, first + len(row["tokens"]))


def _by_place(features: SparseFeatures, windows: TokenWindows) -> np.ndarray:
    dense = np.zeros((windows.tokens.size, features.n_features), np.float32)
    dense[np.flatnonzero(windows.mask)] = features.matrix.toarray()
    return dense
