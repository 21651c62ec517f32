"""Every experiment: rows of the figures, tables of the patches, and metrics that disagree."""

from __future__ import annotations

import polars as pl
import pytest
from tests.analyses.circuit_sections import circuit_page, circuits, figures, texts
from tests.analyses.planted_circuits import MAMBA, TRANSFORMER, write_circuits

from homolog.analyses.induction.figures import (
    block_bars,
    convolution_bars,
    head_cells,
    position_curves,
    upstream_bars,
)
from homolog.analyses.induction.summary import effect_tables, misleading
from homolog.analyses.induction.words import component_words, in_sequence, place_of

CHAPTER = "Every part"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_circuits(tmp_path_factory.mktemp("circuits") / "run")


@pytest.fixture(scope="module")
def page(run):
    return circuit_page(run)


@pytest.fixture(scope="module")
def records(run):
    return circuits(run)


def test_heads_outline_the_parts(records):
    rows = head_cells(records, "head to logits")
    assert len(rows) == 2 * 4 * 4
    assert {row["sender"] for row in rows if row["part"]} == {"z.1.2", "z.2.1", "z.3.0"}
    # another B stands before the other prompt, though it was asked later
    assert rows[0]["panel"] == f"{TRANSFORMER}: another B"
    assert next(row for row in rows if row["sender"] == "z.2.1")["kl"] == 1.5


def test_blocks_stand_with_their_state_first(records):
    rows = block_bars(records)
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    assert panels == [f"{MAMBA}: state, another B", f"{MAMBA}: y, nothing repeated"]
    largest = {row["panel"]: row["layer"] for row in rows if row["logit_difference"]}
    assert largest == dict.fromkeys(panels, 5)
    into = {(row["panel"], row["layer"]): row["logit_difference"] for row in upstream_bars(records)}
    assert into[f"{MAMBA}: into state 5", 1] == -0.9 and len(into) == 5


def test_the_write_at_b_stands_left_of_the_next(records):
    rows = convolution_bars(records)
    panels = [f"{MAMBA}: block 5, write at {at}" for at in ("B", "B+1")]
    assert list(dict.fromkeys(row["panel"] for row in rows)) == panels
    drops = [(row["position"], row["corruption"]) for row in rows if row["logit_difference"]]
    others = "nothing repeated, other A and B"
    assert drops == [(at, prompt) for prompt in ("another A", others) for at in ("A", "all")]


def test_a_head_has_one_panel_for_keys_and_values(records):
    rows = position_curves(records)
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    assert panels == [f"{TRANSFORMER}: head 2.1", f"{MAMBA}: writes of block 5"]
    head = [row for row in rows if row["panel"] == panels[0]]
    drops = {(row["read"], row["position"]): row["logit_difference"] for row in head}
    assert drops["key", "A+1"] == -4.8 and drops["value", "B"] == -5.5 and len(drops) == 10


def test_positions_stand_in_the_order_of_the_prompt():
    given = ["B", "all", "A", "B-3", "B+1", "B-2"]
    assert in_sequence(given) == ["B-3", "B-2", "A", "B", "B+1", "all"]
    assert in_sequence(["A+1", "A", "A-1"]) == ["A-1", "A", "A+1"]


def test_names_of_components():
    assert place_of("z.2.3@A+1") == place_of("z.2.3 key") == (2, 3)
    assert component_words("z.2.3@A+1") == "head 2.3 (its key at A+1)"
    assert component_words("conv_taps.5@A") == "the convolution of block 5 (its tap at A)"


def test_the_patches_that_cost_most_come_first(records):
    table = effect_tables(records)[1]
    first = next(row for row in table.rows if row[0] == "convolution into the write at B")
    assert first[1:3] == ["another A", "conv_in.5 at A \u2192 write.5@B"]
    assert first[4:] == ["\u22121.50", "\u22120.150", "0.750"]


def test_raw_logits_that_mislead_are_named(run, page, tmp_path):
    assert misleading(circuits(run)) == []
    assert "mislead" not in texts(page)[CHAPTER]
    path = write_circuits(tmp_path / "run")
    effects = pl.read_parquet(path / "effects.parquet")
    loud = (pl.col("sender") == "y.7") & (pl.col("metric") == "logit")
    change = pl.when(loud).then(-16.5).otherwise("change").alias("change")
    effects.with_columns(change).write_parquet(path / "effects.parquet")
    ((by_logit, by_probability, prompt),) = misleading(circuits(path))
    assert (by_logit["sender"], by_logit["logit"], by_logit["probability"]) == ("y.7", -16.5, 0)
    assert (by_probability["sender"], by_probability["probability"]) == ("y.5", -0.25)
    assert prompt == "nothing repeated"
    said = texts(circuit_page(path))[CHAPTER]
    assert (
        "y.7 (\u221216.50; probability 0.000)" in said and "y.5 (\u22122.50; \u22120.250)" in said
    )


def test_figures_switch_between_the_metrics_and_name_the_largest_drop(page):
    drawn = figures(page)
    switching = ["heads", "key-head", "blocks", "upstream", "convolution", "positions"]
    assert [name for name, figure in drawn.items() if figure.spec.get("params")] == switching
    options = drawn["heads"].spec["params"][0]["bind"]["options"]
    assert options == ["logit_difference", "probability", "kl", "logit"]
    assert f"{MAMBA}: into state 5: y.1 \u22120.90" in drawn["upstream"].alt
    assert f"{TRANSFORMER}: another B: z.2.1 \u22126.00" in drawn["heads"].alt


def test_methods_are_those_of_the_experiments(page, tmp_path):
    both = texts(page)["Methods"]
    assert "z of every other head there" in both and "y of every other block" in both
    assert "[Wang 2025] Junxuan Wang" in both
    one = texts(circuit_page(write_circuits(tmp_path / "run", (MAMBA,))))["Methods"]
    assert "z of every other head there" not in one and "y of every other block" in one


def test_large_models_stay_small(tmp_path):
    drawn = figures(circuit_page(write_circuits(tmp_path / "run", size=(12, 12, 24))))
    assert sum(len(str(figure.spec)) for figure in drawn.values()) < 400_000
    assert len(drawn["heads"].spec["data"]["values"]) == 2 * 144
