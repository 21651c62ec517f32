"""[sae] and [grid]: the dictionaries that are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from homolog.record.settings import Settings, Table


class Training(Settings):
    """How dictionaries are trained; the same for every kind."""

    batch: int = Field(default=512, ge=1)
    """Tokens a step."""

    lr: float = Field(default=3e-3, gt=0)
    """Highest step size of Adam."""

    warmup: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps over which the step size rises linearly from 0."""

    decay: float = Field(default=0.5, ge=0, le=1)
    """Share of the steps, the last ones, over which it falls linearly to 0."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Adam: decay of the mean of gradients."""

    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Adam: decay of the mean of squared gradients."""

    dead_after: int = Field(default=200_000, ge=1)
    """Tokens without firing after which a feature counts as dead in training: kinds that choose the
    largest then train it by an auxiliary loss, the others draw it anew.
    """

    revive_until: float = Field(default=0.5, ge=0, le=1)
    """Share of the training during which dead features are drawn anew, if the kind does so."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Products during training; auto takes bfloat16 where the device computes it natively.  Masters
    are float32.
    """

    scale_sample: int = Field(default=16_384, ge=2)
    """Tokens from which the mean and the scale of the activations are estimated."""

    @property
    def training(self) -> dict[str, Any]:
        """These settings by name, without those of a subclass."""
        return {name: getattr(self, name) for name in Training.model_fields}


TARGET = "target_l0"
SPARSITY = ("l1", "l0", "k", TARGET)
"""Keys that say how sparse a dictionary is, of one kind or another: one of them is given."""


def in_place_of(values: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Values with a model's or a cell's own, of which one for sparsity replaces whichever did."""
    replaced = SPARSITY if any(key in SPARSITY for key in own) else ()
    return {key: value for key, value in values.items() if key not in replaced} | dict(own)


class Dictionaries(Training):
    """The dictionaries that are trained; further keys are those of the kind."""

    model_config = ConfigDict(extra="allow")

    kind: str = "relu"
    """Kind of dictionary; docs/choosing-dictionaries.md says which when."""

    d_sae: int | None = Field(default=None, ge=1)
    """Number of features; or give `expansion`."""

    expansion: float | None = Field(default=None, gt=0)
    """Number of features as a multiple of d_model; or give `d_sae`."""

    residuals: Literal["float32", "bfloat16"] = "float32"
    """How the residuals that dictionaries learn from are kept until they are trained."""

    stream: Literal["auto", "pool", "store"] = "auto"
    """Run the model as residuals are read (pool), or store them first; auto stores what is read
    twice, and in a study everything.
    """

    pool_tokens: int = Field(default=262_144, ge=1)
    """Tokens among which the residuals of a running model are shuffled in memory."""

    def width(self, d_model: int) -> int:
        """Number of features of a dictionary on a residual stream of `d_model` dimensions."""
        return self.d_sae or max(1, round((self.expansion or 0) * d_model))

    def with_own(self: Table, numbers: dict[str, Any]) -> Table:
        """With a model's own numbers (`in_place_of`)."""
        return self.parse(in_place_of(self.values(), numbers)) if numbers else self

    @property
    def of_kind(self) -> dict[str, Any]:
        """The settings that belong to the kind, by name."""
        return {"kind": self.kind, **(self.model_extra or {})}

    def config(self, d_model: int) -> dict[str, Any]:
        """What `dictionaries.parse_config` makes the settings of a dictionary from."""
        return self.of_kind | {"d_sae": self.width(d_model)}


class Sae(Dictionaries, defaults={"batch": 2048, "lr": 1e-3}):
    """The dictionaries of a study: one for every layer of every model that does not bring its own.

    Keys of the kind are here, too: docs/settings.md has them under the kind.
    """

    epochs: int = Field(default=1, ge=1)
    """How often the training tokens are read."""

    tokens: int | None = Field(default=None, ge=1)
    """How many of the training tokens are read, the first ones; None: all.  In `untrained_sae` it
    saves the time of twins whose activations take fewer to learn.
    """

    seeds: tuple[int, ...] = (0, 1)
    """Root seeds: the first for the main comparison, the second for the SAE-seed skyline, all
    others for stability.
    """

    @model_validator(mode="after")
    def _consistent(self) -> Sae:
        if (self.d_sae is None) == (self.expansion is None):
            raise ValueError("give exactly one of d_sae and expansion")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must be different from each other, and at least one")
        return self


class GridDictionaries(Settings):
    """One of the settings of dictionaries that a grid tries: keys of [sae], with those of its kind,
    that take the place of what [sae] says.
    """

    model_config = ConfigDict(extra="allow")

    untrained: dict[str, int | float] | None = None
    """Numbers of [sae] in place of every `untrained_sae` that a model has, which is for the kind of
    [sae] alone.
    """

    @property
    def changes(self) -> dict[str, Any]:
        """The keys of [sae] that change."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _consistent(self) -> GridDictionaries:
        for key in ("d_sae", "expansion", "seeds"):
            if key in self.changes:
                raise ValueError(f"{key} is the same for all dictionaries of a grid")
        return self


class Grid(Settings):
    """The study again with other dictionaries: a cell for each of `dictionaries` and `d_sae`.

    A recipe with this table is run cell by cell, without interpretation, circuits and neurons;
    docs/dictionary-grid.md has an example.
    """

    dictionaries: tuple[GridDictionaries, ...] = Field(min_length=1)

    d_sae: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Numbers of features; that of [sae] by default."""

    seeds: int | None = Field(default=None, ge=2)
    """Dictionaries of each layer, which differ in their seeds; as many as [sae] has by default."""
