"""Quality of the dictionaries: rows of the figure, and the tables."""

from __future__ import annotations

import pytest
from tests.analyses.planted_run import make_run, read_pair

from homolog.analyses.quality import dictionary_tables, quality


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return read_pair(make_run(tmp_path_factory.mktemp("quality") / "run"))


def test_dictionaries_are_told_apart_in_words(records):
    rows = quality(records)
    told = {(row["dictionary"], row["family"], row["variant"]) for row in rows}
    assert ("mamba-s0", "mamba-s0", "compared") in told
    assert ("mamba-s0 (seed1)", "mamba-s0", "second dictionary seed") in told
    assert ("transformer-s1", "transformer-s0", "second training seed") in told
    assert ("mamba-random", "mamba-s0", "untrained model") in told
    recovered = {row["variant"] for row in rows if row["panel"] == "Loss recovered"}
    assert recovered == {variant for *_, variant in told} - {"untrained model"}


def test_dictionaries_show_their_sinks_and_why_they_fail(tmp_path):
    records = read_pair(make_run(tmp_path / "run", failing={("mamba-s0", 2)}))
    own, others = dictionary_tables(records).values()
    place = own.columns.index("Variance in sinks")
    assert {row[place] for row in own.rows} == {"0.3%"}
    assert all(len(row) == len(own.columns) for row in (*own.rows, *others.rows))
    fails = [row[:2] for row in own.rows if row[-1] != "passes"]
    assert fails == [["mamba-s0", "2"]] and len(own.rows) == 4 + 8
    assert {row[0] for row in others.rows} >= {"mamba-s0 (seed1)", "transformer-random"}
