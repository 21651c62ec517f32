"""Which positions the key part reads from the end: of planted models, as rows and as a figure."""

import pytest
import torch
from tests.analyses.circuit_sections import circuit_page, circuits, figures
from tests.analyses.planted_circuits import MAMBA, TRANSFORMER, write_circuits
from tests.reference import planted_recurrences as planted

from homolog.analyses.induction.attention import attention_rows, labelled, reading_part
from homolog.analyses.induction.attention_figure import attention_bars, attention_figure
from homolog.circuits.prompts import Prompts
from homolog.models.architectures import ADAPTERS
from homolog.record.circuits import READ_POSITIONS
from homolog.record.tables import HIDDEN_ATTENTION

PROMPTS = Prompts(n_prompts=24, length=12, seed=3, batch=10)


def adapted(hf):
    return ADAPTERS[hf.config.model_type]("planted", hf)


def test_a_head_without_scores_reads_all_positions_alike():
    model = adapted(planted.attention_over_register(1))
    rows = attention_rows(model, PROMPTS, "z.1")
    assert [row["position"] for row in rows] == list(READ_POSITIONS[1:])  # no window is begun
    for row in rows:
        assert row["part"] == "z.1"
        for name in ("share", "weight"):
            ends = [row[name], row[f"{name}_lo"], row[f"{name}_hi"]]
            assert ends == pytest.approx([1 / 12] * 3, abs=1e-6)
    HIDDEN_ATTENTION.frame([{"model": "m", "architecture": "lfm2"} | row for row in rows])


def test_an_ssd_reads_what_has_hardly_decayed():
    """Channels are always on alike: C, B and dt are those of any position, but for the decay."""
    hf = planted.ssd(1)
    model = adapted(hf)
    rows = {row["position"]: row for row in attention_rows(model, PROMPTS, "state.0")}
    assert {row["part"] for row in rows.values()} == {"y.0"}
    dt, decay = torch.log(torch.tensor(2.0)), torch.exp(-torch.exp(torch.tensor(planted.FORGETS)))
    B = torch.nn.functional.silu(torch.tensor(20.0).sqrt())  # two of forty channels are one
    end = float(dt * B * B)
    assert rows["end"]["weight"] == pytest.approx(end, rel=1e-3)
    furthest = end * float(decay**dt) ** 11
    assert all(furthest < row["weight"] <= end * 1.001 for row in rows.values())


def test_labels_are_disjoint_and_complete():
    """Where B stands near the end, or a window begins with a token, too."""
    model = adapted(planted.attention_over_register(0))
    pairs = PROMPTS.pairs(model, "replace_B")
    for one in (pairs, pairs.begun(5)):
        of_label = labelled(one)
        assert tuple(of_label) == READ_POSITIONS
        assert (torch.stack(list(of_label.values())).sum(0) == 1).all()
        rows = torch.arange(len(one))
        assert of_label["end"][rows, -1].all()
        inside = one.positions["B"] < one.length - 1
        assert of_label["B"][rows, one.positions["B"]][inside].all()
        assert of_label["start"].sum() == len(one) * one.n_begun


def test_the_part_that_reads_is_the_head_or_the_mixer_of_the_state():
    model = adapted(planted.attention_over_register(0))
    assert reading_part(model, "z.1") == "z.1"
    assert reading_part(model, "state.0") == "y.0"


def test_bars_of_both_models_stand_in_one_figure(tmp_path):
    run = write_circuits(tmp_path / "run")
    rows = attention_bars(circuits(run))
    shown = {(row["panel"], row["position"]): row["share"] for row in rows}
    assert shown == {
        (f"{TRANSFORMER}: head 2.1", "B"): 0.9,
        (f"{TRANSFORMER}: head 2.1", "another"): 0.01,
        (f"{MAMBA}: the scan of block 5", "B"): 0.3,
        (f"{MAMBA}: the scan of block 5", "another"): 0.1,
    }
    figure = figures(circuit_page(run))["hidden-attention"]
    assert f"{TRANSFORMER}: head 2.1: B 90%; {MAMBA}: the scan of block 5: B 30%" in figure.alt


def test_a_run_from_before_has_no_such_figure(tmp_path):
    run = write_circuits(tmp_path / "run")
    (run / HIDDEN_ATTENTION.file).unlink()
    assert attention_figure(circuits(run)) is None
    assert "hidden-attention" not in figures(circuit_page(run))
