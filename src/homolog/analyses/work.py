"""What an analysis has before it in a study, for the seconds that it says it will take.

Constants beside the analyses are seconds on two threads of an AMD EPYC, from runs of the built-in
recipes there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from homolog.record.recipe import Recipe
from homolog.record.recipe.meaning import Circuits, Interpretation

CELL = 1.75e-9
"""A pair of features of which the best are looked for (docs/benchmarks-matching.md)."""


@dataclass(frozen=True)
class Work:
    """The sizes of a study.

    n_features: of all compared models.  activations: of all of them on the matched text.
    n_models: that are compared; n_directions: ordered pairs of them.  n_blocks: by model.
    shared: what two threads do in a second, these do in so many.
    read: seconds of whole passes over so many tokens, through the models that are named or all.
    mapped: seconds in which the residuals of the pairs of models are read and their spaces met.
    neighbours: in which each layer of every model meets the next, over so many tokens.
    """

    recipe: Recipe
    n_features: int
    activations: float
    n_models: int
    n_directions: int
    n_blocks: dict[str, int]
    shared: float
    read: Callable[..., float]
    mapped: Callable[[], float]
    neighbours: Callable[[float], float]

    @property
    def partners(self) -> float:
        """Models in which the partners of each feature are looked for."""
        return self.n_directions / self.n_models

    @property
    def asked(self) -> Interpretation:
        """The recipe's [interpretation], which an analysis that is wanted for it has."""
        assert self.recipe.interpretation is not None
        return self.recipe.interpretation

    @property
    def circuits(self) -> Circuits:
        """The recipe's [circuits], in the same way."""
        assert self.recipe.circuits is not None
        return self.recipe.circuits

    def over_prompts(self, model: str, n_prompts: int, passes: float) -> float:
        """Seconds of so many passes over prompts; random weights cannot do the task: one."""
        tokens = n_prompts * self.circuits.length
        return (1 if self.recipe.run.random_weights else passes) * self.read(tokens, model)
