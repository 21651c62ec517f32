"""The Off-by-One test: profiles as shares of the drop, and verdicts."""

from __future__ import annotations

import pytest
from tests.analyses.circuit_sections import circuit_page, circuits, figures, texts
from tests.analyses.planted_circuits import MAMBA, TRANSFORMER, write_circuits

from homolog.analyses.induction.words import offset_words, verdict_words
from homolog.analyses.offsets import offset_profiles, offset_table


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_circuits(tmp_path_factory.mktemp("circuits") / "run")


def test_offsets_are_shares_of_the_drop_where_it_is(run):
    rows = offset_profiles(circuits(run))
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    # write.0 carries 0.1 of 8.1
    assert panels == [f"{TRANSFORMER}: what head 2.1 reads", f"{MAMBA}: writes of block 5"]
    by = {row["offset"]: row for row in rows if row["panel"] == panels[1]}
    assert (by[0]["share"], by[1]["share"], by[2]["share"]) == (2 / 8, 6 / 8, 0)
    assert (by[1]["low"], by[1]["high"]) == (5.6 / 8, 6.4 / 8)
    assert by[1]["null_high"] == 0.2 / 8 and by[1]["predicted"] == 0.75
    assert by[1]["of_model"] == 0.9877  # 8 / 8.1
    assert all(row["predicted"] is None for row in rows if row["panel"] == panels[0])


@pytest.mark.parametrize(
    "offset, words",
    [
        (0, "by its own position"),
        (1, "by the position after it"),
        (-1, "1 position before it"),
        (2, "2 positions after it"),
    ],
)
def test_verdicts_say_which_position_carries_b(offset, words):
    said = verdict_words({"token": "B", "offset": offset, "verdict": "shifted"})
    assert words in said and said.endswith("shifted")
    matched = verdict_words({"token": "A", "offset": offset + 1, "verdict": "shifted"})
    of_b = words.replace("its own", "B\u2019s").replace(" it", " B")
    assert matched == f"A is carried {of_b}: shifted"


def test_a_verdict_that_is_not_given_says_so():
    assert verdict_words({"token": "A", "offset": 1, "verdict": "undecided"}) == "undecided"
    assert verdict_words({"token": "B", "offset": None, "verdict": None}) == "\u2013"
    assert offset_words(2, "A") == "A+2"
    assert [offset_words(offset) for offset in (None, 0, 2, -1)] == ["\u2013", "B", "B+2", "B-1"]


def test_the_table_and_the_figure(run):
    (_, _, mamba, matched) = offset_table(circuits(run)).rows
    assert mamba[0] == MAMBA and mamba[2:] == ["100%", "B+1", "0.75 (0.70 to 0.80)", "B+1"]
    assert matched[0] == MAMBA and matched[2:] == ["100%", "A+2", "1.75 (1.70 to 1.80)", "A+2"]
    page = circuit_page(run)
    assert "B is carried by the position after it: off by one" in texts(page)["Off by one"]
    figure = figures(page)["offsets"]
    assert "off by one" in figure.alt and "Diamonds" in figure.read
    other = figures(page)["offsets-matched"]
    assert "A is carried by B\u2019s position: no shift" in other.alt
    assert "A is carried by the position after B: off by one" in other.alt


def test_what_is_matched_has_profiles_of_its_own(run):
    rows = offset_profiles(circuits(run), "A")
    by = {row["offset"]: row for row in rows if row["panel"] == f"{MAMBA}: writes of block 5"}
    assert (by[0]["share"], by[1]["share"], by[2]["share"]) == (0, 1 / 4, 3 / 4)
    assert by[2]["predicted"] == 1


def test_without_a_prediction_there_are_no_diamonds(tmp_path):
    page = circuit_page(write_circuits(tmp_path / "run", (TRANSFORMER,)))
    assert "Diamonds" not in figures(page)["offsets"].read
