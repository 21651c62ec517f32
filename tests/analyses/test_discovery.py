"""Discovery: edges that were patched for real, the strongest ones, and the correlations."""

from __future__ import annotations

import pytest
from tests.analyses.circuit_sections import circuit_page, circuits, figures, texts
from tests.analyses.planted_circuits import MAMBA, TRANSFORMER, write_circuits

from homolog.analyses.discovery.figures import correlation_table, edge_tables, patched_edges

MAMBA_EDGE = "conv_in.0 \u2192 conv_taps.0 (tap 3) at B"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_circuits(tmp_path_factory.mktemp("circuits") / "run")


def test_only_edges_patched_for_real_are_drawn(run):
    rows = patched_edges(circuits(run))
    assert len(rows) == 2 * 2 * 4 and rows[-1]["edge"] == MAMBA_EDGE
    assert (rows[0]["score"], rows[0]["effect"], rows[0]["low"]) == (-8, -9, -9.1)


def test_the_largest_scores_stand_in_tables(run):
    tables = edge_tables(circuits(run))
    prompts = [(m, p) for m in (TRANSFORMER, MAMBA) for p in ("another B", "another A")]
    assert [table.caption for table in tables] == [", ".join(prompt) for prompt in prompts]
    scores = [row[1:] for row in tables[-1].rows]
    assert scores[0] == ["\u22128.00", "\u22129.00 (\u22129.10 to \u22128.90)"]
    assert scores[2] == ["\u22120.30", "\u2013"]  # not patched for real


def test_the_section(run):
    page = circuit_page(run)
    assert MAMBA_EDGE in texts(page)["Discovery"]
    assert "0.50 with another B, 0.50 with another A" in figures(page)["edges"].alt
    first = correlation_table(circuits(run)).rows[0]
    assert first == [TRANSFORMER, "another B", *["0.50 / 0.50"] * 3, "2 of 2"]
