"""What nodes without reason to be a circuit do: random circuits, and random orders of the nodes.

A circuit C with n_t nodes of each kind t (heads, MLPs, mixers) is set beside R circuits drawn
uniformly among those with as many nodes of each kind

    R_i = union over kinds t of a random n_t of all nodes of kind t,    i = 1 ... R

and their faithfulness f(R_i), on the same prompts, beside f(C).  C itself may be drawn: where a
kind has so few nodes that this is likely, nothing tells C from chance, and the null says so.  C is
called faithful if it does about what the model does, and more of it than any that was drawn:

    |1 - f(C)| <= 1 - FAITHFUL     and     low(C) > max over i of f(R_i)

with low(C) the lower end of its 95 % interval over prompts, so that no hair's breadth decides.

A random circuit passes the second with a chance of 1 / (R + 1) at most.  That a circuit needs such
a null, and random circuits of its size for one: [Shi 2024]; here they are of its kinds as well.

[Shi 2024] "Hypothesis Testing the Circuit Hypothesis in LLMs", arXiv 2410.13032.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from homolog.circuits.evaluation import CircuitEvaluation
from homolog.circuits.metrics import Interval
from homolog.models.sites import Site
from homolog.record.circuits import FAITHFUL

# keep these draws apart from others with the same seed
_CIRCUITS = int.from_bytes(b"random circuits", "little")
_ORDERS = int.from_bytes(b"random orders", "little")


@dataclass(frozen=True)
class Null:
    """A score of what was drawn at random; NaN where one of them is."""

    scores: Float[Tensor, " draw"]

    def columns(self, name: str) -> dict[str, float]:
        """As columns of a row: NAME_mean, NAME_least and NAME_most."""
        values = self.scores.numpy()
        return {
            f"{name}_mean": float(values.mean()),
            f"{name}_least": float(values.min()),
            f"{name}_most": float(values.max()),
        }

    def is_beaten_by(self, faithfulness: Interval) -> bool:
        """Whether that is the faithfulness of a circuit that is called faithful."""
        enough = abs(1 - float(faithfulness.value)) <= 1 - FAITHFUL
        return enough and float(faithfulness.low) > float(self.scores.numpy().max())


def random_circuits(
    circuit: Collection[Site], universe: Sequence[Site], n: int, seed: int = 0
) -> list[list[Site]]:
    """`n` random subsets of the nodes with as many of each kind as the circuit has."""
    generator = np.random.default_rng([_CIRCUITS, seed])
    wanted = Counter(site.kind for site in circuit)
    # in the order of the universe, so that the draws depend on the numbers of nodes alone
    kinds = [kind for kind in dict.fromkeys(site.kind for site in universe) if wanted[kind]]
    of_kind = {kind: [site for site in universe if site.kind == kind] for kind in kinds}

    def draw() -> list[Site]:
        return [
            nodes[i]
            for kind, nodes in of_kind.items()
            for i in generator.choice(len(nodes), wanted[kind], replace=False)
        ]

    return [draw() for _ in range(n)]


def random_orders(universe: Sequence[Site], n: int, seed: int = 0) -> list[list[Site]]:
    """`n` random orders of all nodes."""
    generator = np.random.default_rng([_ORDERS, seed])
    return [[universe[i] for i in generator.permutation(len(universe))] for _ in range(n)]


def null_of(evaluation: CircuitEvaluation, circuit: Collection[Site], n: int) -> Null:
    """Faithfulness, on the prompts of the evaluation, of `n` random circuits like this one."""
    drawn = random_circuits(circuit, evaluation.universe, n, evaluation.scoring.seed)
    return Null(evaluation.shares(drawn))
