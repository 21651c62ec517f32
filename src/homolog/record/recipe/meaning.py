"""How tasks are done, what features mean and do, what models share: [circuits], [interpretation],
[crosscoder], [alignment_search].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from homolog.errors import InputError
from homolog.record.circuits import INDUCTION, TASK_NAMES, CircuitSearch
from homolog.record.names import listed
from homolog.record.recipe.dictionaries import Training
from homolog.record.settings import Settings


class Circuits(CircuitSearch):
    """How the models do some tasks: induction by path patching, with the roles of its parts and the
    Off-by-One test; and where there is any other task, the circuits that attribution finds of each.
    """

    tasks: tuple[str, ...] = Field(
        default=(INDUCTION,),
        min_length=1,
        description=f"Of {listed(TASK_NAMES)}, or .jsonl files of "
        "prompts.  With any but induction, each of them has a circuit by discovery, beside random "
        "ones and on the prompts of the others.",
    )

    n_prompts: int = Field(default=256, ge=2)
    """Prompts of every experiment."""

    length: int = Field(default=64, ge=5)
    """Tokens of a prompt, of the tasks whose prompts may be of any length."""

    repeat: int = Field(default=1, ge=1)
    """How many tokens at the end repeat earlier ones: 1 as in the paper; small models need more."""

    discovery_prompts: int = Field(default=64, ge=0)
    """Prompts for the attribution of all edges, which takes gradients, and for the circuits that it
    finds: the first of them.  0, where induction is traced alone: no attribution.
    """

    text: str = "zoo:demo"
    """Where natural_induction takes its prompts from, as `corpus.source`."""

    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Further options of the tasks, for each that has one of that name: n_pairs of
    associative_recall, max_bigram of natural_induction, corruption.
    """

    @model_validator(mode="before")
    @classmethod
    def _one_task(cls, values: Any) -> Any:
        """Of recipes from when there was one: task = "induction"."""
        if isinstance(values, Mapping) and values.get("task") == INDUCTION:
            return {key: value for key, value in values.items() if key != "task"}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Circuits:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("name each task once")
        if self.discovery_prompts < 2 and (self.discovered or self.discovery_prompts):
            raise ValueError("discovery_prompts must be 2 or more, or 0 for induction alone")
        return self

    @property
    def traced(self) -> bool:
        """Whether induction is traced by path patching."""
        return INDUCTION in self.tasks

    @property
    def discovered(self) -> tuple[str, ...]:
        """The tasks whose circuits attribution finds."""
        return () if self.tasks == (INDUCTION,) else self.tasks


class Interpretation(Settings):
    """What features mean: examples and measures of all, left context, and causal checks of some."""

    top: int = Field(default=16, ge=1)
    """Most activating examples of each feature."""

    per_quantile: int = Field(default=4, ge=0)
    """Examples at each of the lower quantiles of its activation (75, 50 and 25 %)."""

    context_tokens: int = Field(default=400_000, ge=0)
    """Tokens that each model reads again with its left context cut, at most; 0: not measured."""

    causal_pairs: int = Field(default=100, ge=0)
    """Matched features of each direction that are ablated, steered and replaced by their partners,
    each with controls; 0: none.
    """

    listed: int = Field(default=50, ge=0)
    """Best shared and exclusive features of each direction; the latter are regressed on the whole
    other model.
    """

    transplant: bool = True
    """Residuals of one model mapped into the other's space and read by its dictionaries."""

    flow_tokens: int = Field(default=65_536, ge=0)
    """The first match tokens, on which features of neighbouring layers of a model are compared; 0:
    feature flow is not followed, nor are features matched by weights.
    """

    flow_r: float = Field(default=0.5, ge=0, le=1)
    """r of an ancestor or a descendant, at least: it explains a quarter of the feature's variance.
    A feature without one is born, or dies.  Where chance reaches more, more is needed.
    """

    flow_kept_r: float = Field(default=0.9, ge=0, le=1)
    """r from which a feature is kept from one layer to the next: its neighbour explains four fifths
    of its variance.  Below, it changes.
    """

    @model_validator(mode="after")
    def _kept_is_more(self) -> Interpretation:
        if self.flow_kept_r < self.flow_r:
            requirement = f"what is kept has an ancestor, whose r is flow_r, {self.flow_r}, or more"
            field = "interpretation.flow_kept_r"
            raise InputError(field, self.flow_kept_r, requirement, "Raise it, or lower flow_r.")
        return self


class Crosscoders(Training, defaults={"batch": 1024, "lr": 1e-3}):
    """One dictionary over two blocks of every two models that are compared: do its shared latents
    and the study's homologs agree?
    """

    tokens: int = Field(default=500_000, ge=2)
    """Training tokens that are read, the first ones; residuals of both blocks are in memory."""

    epochs: int = Field(default=4, ge=1)
    """How often they are read."""

    d_sae: int = Field(default=2048, ge=1)
    """Latents of a crosscoder."""

    k: int = Field(default=32, ge=1)
    """Latents that a row may use in the mean, over both models."""

    dedicated: float = Field(default=0.05, ge=0, lt=0.5)
    """Share of the latents that each model has for itself."""

    block: int | None = Field(default=None, ge=0)
    """Block of the first of two models, by name; the middle one by default.  That of the second is
    the most similar.
    """


class AlignmentSearch(Settings):
    """Directions of one model's residual stream that stand in for those of another, after one block
    of every two models that are compared: how many keep the other's predictions?
    """

    tokens: int = Field(default=16_384, ge=2)
    """Training tokens that the maps are fitted on, the first ones."""

    test_tokens: int = Field(default=2048, ge=2)
    """Held-out tokens that they are measured on, the first of `corpus.quality_tokens`."""

    steps: int = Field(default=24, ge=0)
    """Gradient steps of each map; 0: as it starts."""

    batch: int = Field(default=8, ge=1)
    """Windows of a step."""

    lr: float = Field(default=0.003, gt=0)
    """Learning rate of Adam, for each pair of directions that are turned; it falls to zero."""

    block: int | None = Field(default=None, ge=0)
    """Block of the first of two models, by name; the middle one by default.  That of the second is
    the most similar.
    """
