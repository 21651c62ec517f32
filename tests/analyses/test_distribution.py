"""Ridges and shares of the best correlations."""

from __future__ import annotations

import numpy as np
import pytest
from tests.analyses.planted_run import make_run, read_pair

from homolog.analyses.distribution import RIDGE_HEIGHT, ridges, share_curves, smooth
from homolog.record.comparisons import MAIN


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return read_pair(make_run(tmp_path_factory.mktemp("distribution") / "run"))


def test_share_curve_passes_through_the_planted_share(records):
    at = {
        row["panel"]: row["share"]
        for row in share_curves(records)
        if row["comparison"] == MAIN.name and row["r"] == 0.7  # none is between 0.69 and 0.71
    }
    assert at == {"Features of transformer-s0": 0.65, "Features of mamba-s0": 0.5}


def test_undefined_features_are_left_out_not_zero(records):
    assert len(records.defined_r(MAIN.name, "A")) == 180  # of 200, a tenth undefined


def test_smoothing_keeps_the_total_also_at_the_ends():
    counts = np.zeros(40)
    counts[[0, 20, 39]] = [5, 3, 7]
    assert smooth(counts).sum() == pytest.approx(15)


def test_smoothing_is_a_gaussian_of_the_reflected_counts():
    counts = np.random.default_rng(0).integers(0, 9, 30).astype(float)
    kernel = np.exp(-0.5 * (np.arange(-7, 8) / 1.6) ** 2)
    padded = np.pad(counts, 7, mode="symmetric")
    expected = [padded[i : i + 15] @ kernel / kernel.sum() for i in range(30)]
    np.testing.assert_allclose(smooth(counts), expected, atol=1e-12)


def test_ridges_are_small_whatever_the_number_of_features(records):
    rows = ridges(records, "sae")
    assert len(rows) < 5 * 2 * 130
    assert max(row["top"] - row["base"] for row in rows) <= RIDGE_HEIGHT + 1e-9
