"""Random circuits: of the same kinds, uniform, and what they do in a planted circuit."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from tests.circuits.test_evaluation import PAIRS, TRUE_CIRCUIT, mamba, planted

from homolog.circuits.edges import nodes
from homolog.circuits.evaluation import CircuitEvaluation, Scoring
from homolog.circuits.metrics import Interval
from homolog.circuits.nulls import Null, null_of, random_circuits, random_orders
from homolog.models import Site

UNIVERSE = [Site("head_out", layer, head) for layer in range(3) for head in range(4)] + [
    Site("mlp_out", layer) for layer in range(3)
]
CIRCUIT = [Site("head_out", 0, 1), Site("head_out", 2, 3), Site("mlp_out", 0)]


def test_random_circuits_have_as_many_nodes_of_each_kind() -> None:
    drawn = random_circuits(CIRCUIT, UNIVERSE, 300)
    for circuit in drawn:
        assert Counter(site.kind for site in circuit) == {"head_out": 2, "mlp_out": 1}
        assert len(set(circuit)) == 3 and set(circuit) <= set(UNIVERSE)
    assert drawn == random_circuits(CIRCUIT, UNIVERSE, 300)
    assert drawn == random_circuits(CIRCUIT[::-1], UNIVERSE, 300)
    assert drawn != random_circuits(CIRCUIT, UNIVERSE, 300, seed=1)
    often = Counter(site for circuit in drawn for site in circuit)
    for site in UNIVERSE:  # 2 of 12 heads, 1 of 3 MLPs; 4 standard deviations of a binomial
        share = 2 / 12 if site.kind == "head_out" else 1 / 3
        assert abs(often[site] - 300 * share) < 4 * math.sqrt(300 * share * (1 - share))


def test_random_orders_are_of_all_nodes() -> None:
    orders = random_orders(UNIVERSE, 5)
    assert all(sorted(order, key=str) == sorted(UNIVERSE, key=str) for order in orders)
    assert len({tuple(order) for order in orders}) == 5 and orders == random_orders(UNIVERSE, 5)


def test_the_null_of_a_planted_circuit_is_what_its_parts_do() -> None:
    """Only head 1.2 and MLP 0 act, so that a draw does what those of them do that are in it."""
    evaluation = CircuitEvaluation(planted(), PAIRS, TRUE_CIRCUIT, Scoring(ablation="zero"))
    true = set(evaluation.circuit)
    drawn = random_circuits(true, evaluation.universe, 60)
    null = null_of(evaluation, evaluation.circuit, 60)
    alone = {site: evaluation.shares([[site]]).item() for site in true}
    of_parts = {frozenset(): 0.0, frozenset(true): 1.0}
    of_parts |= {frozenset([site]): value for site, value in alone.items()}
    expected = [of_parts[frozenset(true & set(circuit))] for circuit in drawn]
    torch.testing.assert_close(
        null.scores, torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=0
    )
    assert true in map(set, drawn) and null.columns("null")["null_most"] >= 1
    assert null.columns("n")["n_mean"] == pytest.approx(sum(expected) / 60, abs=1e-5)


def test_of_a_few_mixers_the_circuit_is_drawn_itself_and_beats_nothing() -> None:
    model = mamba()
    evaluation = CircuitEvaluation(model, PAIRS, nodes(model)[:2], Scoring(ablation="zero"))
    null = null_of(evaluation, evaluation.circuit, 30)
    assert evaluation.shares([evaluation.circuit]).item() in null.scores.tolist()
    whole = null_of(evaluation, evaluation.universe, 10)
    assert whole.scores.tolist() == [1.0] * 10 and not whole.is_beaten_by(Interval(*torch.ones(3)))


@pytest.mark.parametrize(
    ("faithfulness", "drawn", "faithful"),
    [
        (0.9, [0.1, 0.5], True),
        (0.9, [0.1, 0.88], False),  # the null reaches into the interval, 0.05 to either side
        (0.7, [0.1, 0.5], False),  # not enough of what the model does
        (1.15, [0.1, 0.5], True),
        (1.3, [0.1, 0.5], False),  # much more than the model does
        (math.nan, [0.1, 0.5], False),
        (0.9, [0.1, math.nan], False),
    ],
)
def test_what_is_called_faithful(faithfulness: float, drawn: list[float], faithful: bool) -> None:
    ends = torch.tensor([faithfulness, faithfulness - 0.05, faithfulness + 0.05])
    null = Null(torch.tensor(drawn, dtype=torch.float64))
    assert null.is_beaten_by(Interval(*ends)) == faithful
