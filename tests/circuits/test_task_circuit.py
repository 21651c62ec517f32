"""The circuit of a task: a planted one is found, and the documented examples run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from tests.circuits.test_evaluation import PAIRS, TRUE_CIRCUIT, planted
from tests.models.helpers import tiny

from homolog.circuits import CircuitSearch, find_circuit
from homolog.circuits.prompts import Unable
from homolog.circuits.task_circuit import TaskCircuit, row_of_ability, transfers
from homolog.corpus.tasks import PromptPairs, induction
from homolog.errors import InputError
from homolog.record.tables import TASK_CIRCUITS, TASK_TABLES

ANYWAY = CircuitSearch(even_unable=True)
SEARCH = ANYWAY.changed(n_edges=100, validated_edges=4, n_subsets=4)
METHODS = Path(__file__).parents[2] / "docs" / "methods-circuits.md"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def found() -> TaskCircuit:
    return find_circuit(planted(), PAIRS, SEARCH)


def test_a_planted_circuit_is_found_and_is_the_whole_story(found: TaskCircuit) -> None:
    assert set(found.components["node"]) == set(TRUE_CIRCUIT)
    assert found.n_nodes == 15 and len(found.effects) == 2
    assert all(abs(float(effect.difference.value)) > 1e-5 for effect in found.effects)
    clear = [e for e in found.effects if not e.difference.low <= 0 <= e.difference.high]
    assert found.n_needed == len(clear)
    assert found.faithfulness.score == (1, 1, 1)
    assert all(gap.difference == (0, 0, 0) for gap in found.gaps)
    solved = planted().hf(PAIRS.clean).logits[:, -1].argmax(-1) == PAIRS.answer
    assert found.ability.accuracy == pytest.approx(float(solved.double().mean()))


def test_the_tables_have_the_columns_that_are_said_once(found: TaskCircuit) -> None:
    tables = found.tables("mine") | {"task_transfers": transfers([found], "mine")}
    schemas = {table.name: table.schema for table in TASK_TABLES}
    assert set(tables) == set(schemas)
    for name, frame in tables.items():
        assert dict(frame.schema) == schemas[name], name
        assert frame["model"].unique().to_list() == ["mine"]
    (row,) = tables["task_circuits"].to_dicts()
    acting = found.discovery.edges.filter(pl.col("score") != 0)  # of all others nothing is taken
    assert 4 < len(acting) < 100
    assert (row["n_edges"], row["n_nodes"], row["n_nodes_of_model"]) == (len(acting), 2, 15)
    assert row["faithfulness"] == row["faithfulness_lo"] == 1.0 and row["largest_gap"] == 0.0
    edges = tables["task_edges"]
    assert len(edges) == len(found.discovery.edges) and edges.filter("in_circuit").equals(
        edges.filter(pl.col("score") != 0)
    )
    patched = edges.filter(pl.col("effect").is_not_null())
    assert patched["chosen_as"].to_list()[:4] == ["top"] * 4
    assert patched["chosen_as"].null_count() == 0
    every = tables["task_nodes"]
    assert set(every.filter("in_circuit")["node"]) == set(TRUE_CIRCUIT) and len(every) == 15
    acts = every.filter(pl.col("alone") != 0)
    assert set(acts["node"]) == set(TRUE_CIRCUIT)  # ablated alone, no other node does anything
    assert every.filter(~pl.col("in_circuit"))["effect"].null_count() == 13
    assert "" in tables["task_gaps"]["removed"].to_list()


def test_the_circuit_stands_beside_its_null_and_random_orders(found: TaskCircuit) -> None:
    tables = found.tables("mine")
    (row,) = tables["task_circuits"].to_dicts()
    assert row["n_random"] == len(found.null.scores) == len(found.random_curves) == 10
    assert row["null_least"] <= row["null_mean"] <= row["null_most"] <= 1
    assert row["faithful"] == found.faithful == (row["null_most"] < 1)
    assert row["cpr"] > row["random_cpr_most"] and row["cmd"] < row["random_cmd_least"]
    curves = tables["task_curves"]
    sizes = [0, 1, 2, 3, 8, 15]
    assert curves.filter(order="score")["n_nodes"].to_list() == sizes
    assert curves.filter(order="random")["draw"].to_list() == [i for i in range(10) for _ in sizes]


def test_a_circuit_on_the_prompts_of_other_tasks(found: TaskCircuit) -> None:
    """Only two nodes act in the model, on any prompts: either circuit does all of either task."""
    others = replace(induction(range(97), 6, length=9, corruption="unrelated"), name="other")
    other = find_circuit(planted(), others, SEARCH)
    rows = transfers([found, other], "mine").to_dicts()
    tasks = ("induction", "other")
    assert [(r["task"], r["on"]) for r in rows] == [(a, b) for a in tasks for b in tasks]
    assert [r["faithfulness"] for r in rows] == pytest.approx([1] * 4)
    (own,) = found.tables("mine")["task_circuits"].to_dicts()
    same = ("faithfulness", "faithfulness_lo", "null_mean", "null_least", "null_most", "faithful")
    assert all(rows[0][name] == own[name] for name in same)


@pytest.mark.parametrize("case", ["gpt2", "llama", "mamba", "zamba2"])
def test_every_architecture_with_an_adapter_has_one(case: str) -> None:
    pairs = PromptPairs("mine", PAIRS.clean, PAIRS.corrupt, PAIRS.answer, None, PAIRS.positions)
    search = ANYWAY.changed(n_edges=6, validated_edges=2, n_subsets=1, metric="probability")
    circuit = find_circuit(tiny(case), pairs, search)
    assert 0 < len(circuit.components) <= circuit.n_nodes
    assert circuit.faithfulness.score.value.isfinite()


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(InputError, match=r"n_edges is 0.*Give 40"):
        find_circuit(planted(), PAIRS, ANYWAY.changed(n_edges=0))
    without = PromptPairs("mine", PAIRS.clean, PAIRS.corrupt, PAIRS.answer, None)
    with pytest.raises(InputError, match=r"metric for mine is 'logit_difference'.*Known: logit"):
        find_circuit(planted(), without, SEARCH)
    silent = planted()
    for block in silent.hf.gpt_neox.layers:
        for part in (block.attention.dense, block.mlp.dense_4h_to_h):
            part.weight.data.zero_(), part.bias.data.zero_()
    with pytest.raises(InputError, match=r"past all nodes.*Take more edges"):
        last = PAIRS.clean.clone()
        last[:, -1] = (last[:, -1] + 1) % 97
        changed = PromptPairs("end", PAIRS.clean, last, PAIRS.answer, PAIRS.distractor)
        find_circuit(silent, changed, ANYWAY.changed(n_edges=1, validated_edges=2))


def test_a_model_that_cannot_do_the_task_has_no_circuit() -> None:
    with pytest.raises(
        Unable, match=r"a circuit needs a model that does the task: it puts"
    ) as error:
        find_circuit(planted(), PAIRS)
    ability = error.value.ability
    assert ability.solved < ability.needed == 0.75 and not ability.able
    row = row_of_ability(PAIRS, ability)
    assert TASK_CIRCUITS.frame([row])["reason"][0].endswith(f"accuracy {ability.accuracy:.1%}")


@pytest.mark.slow
def test_the_documented_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", METHODS.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 4
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert "z.3.3" in capsys.readouterr().out
    assert 0.8 < float(names["circuit"].faithfulness.score.value) < 1.2
