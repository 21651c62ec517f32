"""The circuit of any task: the nodes at the ends of the strongest edges, and what they are worth.

    all edges scored by attribution (`discovery`)  ->  the strongest  ->  the nodes at their ends, C
    ->  faithfulness, completeness and minimality of C, all other nodes ablated (`evaluation`)
    ->  beside random circuits (`nulls`), by size (`size_curve`), on other tasks (`transfers`)

The nodes of a Transformer are its heads and MLPs, those of a Mamba its mixers: convolution taps and
state writes are scored and patched as edges, but a mixer is ablated as a whole.  So few nodes may
soon be all of them, and a circuit of all nodes is faithful by definition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch

from homolog.circuits.ability import TaskAbility, task_ability
from homolog.circuits.discovery import Discovery, discover
from homolog.circuits.evaluation import CircuitEvaluation, Faithfulness, Gap, NodeEffect, Scoring
from homolog.circuits.known import require_paths
from homolog.circuits.metrics import Interval
from homolog.circuits.nulls import Null, null_of, random_orders
from homolog.circuits.prompts import Unable, answers
from homolog.circuits.size_curve import SizeCurve, discovered_order, size_curves, tried_sizes
from homolog.corpus.tasks.pairs import PromptPairs
from homolog.errors import InputError
from homolog.models.base import LanguageModel
from homolog.models.sites import Site
from homolog.record.circuits import CircuitSearch
from homolog.record.tables import (
    TASK_CIRCUITS,
    TASK_CURVES,
    TASK_EDGES,
    TASK_GAPS,
    TASK_NODES,
    TASK_TRANSFERS,
)


@dataclass(frozen=True)
class TaskCircuit:
    """What was found of one model and task.

    evaluation    of its nodes on the task's prompts
    ability       how well the model does the task
    n_edges       of the circuit
    components    its nodes: columns `tables.COMPONENTS`, the one with the largest score first
    null          of random circuits with as many nodes of each kind
    curve         faithfulness by size, the nodes in the order of discovery
    random_curves the same in random orders
    gaps          completeness, largest first;   effects   minimality, largest first
    alone         by name of every node v of the model: m(M - v) - m(M)
    """

    evaluation: CircuitEvaluation
    search: CircuitSearch
    ability: TaskAbility
    discovery: Discovery
    n_edges: int
    components: pl.DataFrame
    faithfulness: Faithfulness
    null: Null
    curve: SizeCurve
    random_curves: list[SizeCurve]
    gaps: list[Gap]
    effects: list[NodeEffect]
    alone: dict[str, Interval]

    @property
    def model(self) -> LanguageModel:
        """The model."""
        return self.evaluation.model

    @property
    def pairs(self) -> PromptPairs:
        """The prompts."""
        return self.evaluation.pairs

    @property
    def n_nodes(self) -> int:
        """Nodes of the model."""
        return len(self.evaluation.universe)

    @property
    def faithful(self) -> bool:
        """Whether it is called faithful: see `nulls`."""
        return self.null.is_beaten_by(self.faithfulness.score)

    @property
    def n_needed(self) -> int:
        """Nodes of the circuit whose effect differs from 0 by more than its interval."""
        differences = (effect.difference for effect in self.effects)
        return sum(float(d.low) > 0 or float(d.high) < 0 for d in differences)

    def tables(self, name: str) -> dict[str, pl.DataFrame]:
        """The tables `task_...` of `record.tables`; `name` is the model's in them."""
        own = self._about(name)
        gaps = [
            own
            | {"removed": _names(gap.removed)}
            | gap.circuit.columns("circuit")
            | gap.model.columns("whole_model")
            | gap.difference.columns("difference")
            for gap in self.gaps
        ]
        return {
            "task_circuits": TASK_CIRCUITS.frame(
                [own | row_of_ability(self.pairs, self.ability) | self._row()]
            ),
            "task_nodes": TASK_NODES.frame([own | row for row in self._nodes()]),
            "task_gaps": TASK_GAPS.frame(gaps),
            "task_curves": TASK_CURVES.frame([own | row for row in self._curves()]),
            "task_edges": TASK_EDGES.frame(self._edges(own)),
        }

    def on(self, other: TaskCircuit, name: str) -> dict[str, Any]:
        """This circuit on the prompts of another task, as a row of `task_transfers`."""
        there, circuit = other.evaluation, self.evaluation.circuit
        score = there.faithfulness(circuit).score
        null = null_of(there, circuit, self.search.n_random)
        row = self._about(name) | {"on": other.pairs.name} | score.columns("faithfulness")
        return row | null.columns("null") | {"faithful": null.is_beaten_by(score)}

    def _about(self, name: str) -> dict[str, str]:
        return {"model": name, "architecture": self.model.architecture, "task": self.pairs.name}

    def _curves(self) -> Iterator[dict[str, Any]]:
        """The points of all curves, as columns of `task_curves`."""
        for point in self.curve.rows():
            yield {"order": "score", "draw": None} | point
        for draw, curve in enumerate(self.random_curves):
            for point in curve.rows():
                yield {"order": "random", "draw": draw} | point

    def _row(self) -> dict[str, Any]:
        every = self.discovery.correlation.row(by_predicate=pl.col("edges") == "all", named=True)
        faithful = self.faithfulness
        row: dict[str, Any] = {
            "metric": self.search.metric,
            "ablation": self.search.ablation,
            "n_edges": self.n_edges,
            "n_nodes": len(self.components),
            "n_nodes_of_model": self.n_nodes,
            "n_needed": self.n_needed,
            "pearson": every["pearson"],
            "spearman": every["spearman"],
        }
        row |= faithful.score.columns("faithfulness") | self.null.columns("null")
        row |= {"n_random": self.search.n_random, "faithful": self.faithful}
        for name in ("cpr", "cmd"):
            drawn = [getattr(curve, name) for curve in self.random_curves]
            areas = Null(torch.tensor(drawn, dtype=torch.float64))
            row |= {name: getattr(self.curve, name)} | areas.columns(f"random_{name}")
        row |= faithful.circuit.columns("circuit")
        row |= faithful.model.columns("whole_model") | faithful.nothing.columns("nothing")
        return row | self.gaps[0].difference.columns("largest_gap")

    def _nodes(self) -> Iterator[dict[str, Any]]:
        """Those of the circuit, the largest score first, then all others of the model."""
        effects = {str(effect.node): effect for effect in self.effects}
        alone = self.alone
        for row in self.components.iter_rows(named=True):
            effect = effects[row["node"]]
            own = effect.difference.columns("effect") | {"removed": _names(effect.removed)}
            yield {"in_circuit": True} | row | own | alone[row["node"]].columns("alone")
        for node in self.evaluation.universe:
            if str(node) not in effects:
                row = {"node": str(node), "layer": node.layer, "in_circuit": False}
                yield row | alone[str(node)].columns("alone")

    def _edges(self, own: dict[str, str]) -> pl.DataFrame:
        """All edges, with the effect of those that were patched for real."""
        keys = ["sender", "receiver", "tap", "position"]
        edges, patched = self.discovery.edges, self.discovery.validation
        effects = patched.select(*keys, pl.exclude(edges.columns))
        chosen = pl.int_range(pl.len()) < self.n_edges
        joined = edges.with_columns(chosen.alias("in_circuit")).join(
            effects, on=keys, how="left", nulls_equal=True, maintain_order="left"
        )
        return joined.with_columns(**{key: pl.lit(value) for key, value in own.items()})


def find_circuit(
    model: LanguageModel, pairs: PromptPairs, search: CircuitSearch | None = None, seed: int = 0
) -> TaskCircuit:
    """Attribute all edges of the model on the task, take the strongest for its circuit, score it.

    pairs   the task's prompts, from `corpus.tasks.make_task` or of your own
    search  `CircuitSearch()` where none is given
    seed    of the edges and sets that are drawn, and of the resampled prompts
    Errors: Unable for a model that cannot do the task, with how well it does; InputError for an
    architecture whose blocks are not known inside, a metric that the task does not have, fewer than
    one edge, and where the strongest edges are between no nodes.
    """
    search = search or CircuitSearch()
    require_paths(model)
    if search.n_edges < 1:
        raise InputError("n_edges", search.n_edges, "a circuit has one edge at least", "Give 40.")
    n_tokens = model.hf.get_input_embeddings().num_embeddings
    able = task_ability(answers(model, pairs, search.batch), n_tokens)
    if not able.able and not search.even_unable:
        raise Unable(model.name, able, "Take another model, or easier prompts.")
    discovery = discover(
        model,
        pairs,
        metric=search.metric,
        n_top=search.validated_edges,
        n_random=search.validated_edges,
        seed=seed,
        batch=search.gradient_batch,
    )
    taken = min(search.n_edges, int((discovery.edges["score"] != 0).sum()))
    components = discovery.components(taken)
    if components.is_empty():
        past = "all from the embedding to the logits, past all nodes"
        remedy = "Take more edges, and prompts that differ."
        raise InputError("n_edges", search.n_edges, f"{taken} edges have a score, {past}", remedy)
    scoring = Scoring(search.metric, search.ablation, search.batch, seed)
    evaluation = CircuitEvaluation(model, pairs, components["node"].to_list(), scoring)
    orders = random_orders(evaluation.universe, search.n_random, seed)
    orders = [discovered_order(discovery, evaluation.universe), *orders]
    sizes = tried_sizes(len(evaluation.universe))
    evaluation.read(search.n_subsets, [order[:size] for order in orders for size in sizes])
    curve, *random_curves = size_curves(evaluation, orders)
    return TaskCircuit(
        evaluation,
        search,
        able,
        discovery,
        taken,
        components,
        evaluation.faithfulness(),
        null_of(evaluation, evaluation.circuit, search.n_random),
        curve,
        random_curves,
        evaluation.completeness(search.n_subsets),
        evaluation.minimality(search.n_subsets),
        evaluation.alone(),
    )


def row_of_ability(pairs: PromptPairs, ability: TaskAbility) -> dict[str, Any]:
    """The columns of `task_circuits` that a model has which cannot do the task, too."""
    row = {"n_prompts": len(pairs), "length": pairs.length, "dropped": pairs.dropped_words}
    reason = "" if ability.able else ability.said
    return row | ability.columns() | {"reason": reason}


def transfers(circuits: Sequence[TaskCircuit], name: str) -> pl.DataFrame:
    """`task_transfers`: each circuit of one model on the prompts of every task.

    f(C, T) = (m_T(C) - m_T({})) / (m_T(M) - m_T({}))

    m_T is the metric on the prompts of task T, ablated nodes taking their values from its corrupt
    ones.  f(C, T) near 1 for a circuit found on another task means that T runs on the same nodes;
    beside it stand random circuits like C, for a large one does much of anything [Merullo 2024].

    [Merullo 2024] "Circuit Component Reuse Across Tasks in Transformer Language Models",
    arXiv 2310.08744.
    """
    return TASK_TRANSFERS.frame([own.on(other, name) for own in circuits for other in circuits])


def _names(sites: tuple[Site, ...]) -> str:
    return ", ".join(map(str, sites))
