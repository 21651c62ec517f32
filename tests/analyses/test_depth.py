"""Depth: blocks that match, spaces of blocks, and the depth of partners."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from tests.analyses.planted_run import make_run, read_pair

from homolog.analyses.depth import depths
from homolog.analyses.layers import layer_means
from homolog.record.comparisons import MAIN


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return read_pair(make_run(tmp_path_factory.mktemp("depth") / "run"))


def test_depth_is_the_share_of_blocks_passed(records):
    row = next(row for row in depths(records) if row["series"] == "all")
    main = records.matches.filter(comparison=MAIN.name, side="A", layer=0)
    defined = main.filter(pl.col("r").is_finite())
    assert row["depth"] == 0.25  # block 0 of 4
    assert row["n"] == defined.height
    passed = (defined["best_layer"].to_numpy() + 1) / 8
    assert row["mean"] == pytest.approx(float(np.mean(passed)), abs=1e-4)


def test_layer_means_share_axes_and_mark_the_best(records):
    rows = [row for row in layer_means(records) if row["panel"] == "Features of transformer-s0"]
    best = {(row["a"], row["b"]) for row in rows if row["best"]}
    assert best == {(0, 1), (1, 3), (2, 5), (3, 7)}  # (a + 1) / 4 == (b + 1) / 8
