"""The parts of a joined stream: whose residuals they are, how wide, and how they are scaled.

    x = (s_1 x_1, s_2 x_2, ...)

A dictionary of such a stream, a crosscoder, says in its metadata what the parts are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from homolog.errors import InputError

Rows = Float[torch.Tensor, "_ _"]
"""(token, d_model) of one of several models, whose widths differ."""
FACTS = "crosscoder"
"""The key of a dictionary's metadata under which `Streams.facts` stand."""


@dataclass(frozen=True)
class Streams:
    """The parts of a joined stream: the models' names, widths d_model, and scales s_m."""

    models: tuple[str, ...]
    widths: tuple[int, ...]
    scales: tuple[float, ...]

    @classmethod
    def of(cls, facts: Any) -> "Streams":
        """From the metadata of a dictionary.  InputError where they are not there or wrong."""
        remedy = "Read a file that a crosscoder was saved in."
        if not isinstance(facts, Mapping):
            raise InputError(FACTS, facts, "it must say models, widths and scales", remedy)
        parts: list[list[Any]] = []
        for name, kind in (("models", str), ("widths", int), ("scales", float)):
            value: Any = facts.get(name)
            listed = isinstance(value, list) and len(value) >= 2
            if not listed or any(type(one) is not kind for one in value):
                requirement = f"it must be a {kind.__name__} for each of two models or more"
                raise InputError(f"{FACTS}.{name}", value, requirement, remedy)
            parts.append(value)
        models, widths, scales = parts
        numbers = [*widths, *scales]
        above = all(math.isfinite(number) and number > 0 for number in numbers)
        if not above or not len(models) == len(widths) == len(scales):
            requirement = "every model has a width and a scale above 0"
            raise InputError(FACTS, dict(facts), requirement, remedy)
        return cls(tuple(models), tuple(widths), tuple(scales))

    def facts(self) -> dict[str, list[Any]]:
        """As JSON values."""
        return {name: list(value) for name, value in asdict(self).items()}

    @property
    def columns(self) -> tuple[slice, ...]:
        """Of each model in the joined stream."""
        ends = np.cumsum([0, *self.widths]).tolist()
        return tuple(slice(*pair) for pair in itertools.pairwise(ends))

    def check(self, residuals: Sequence[Any]) -> None:
        """InputError where these are not residuals of the models, (token, d_model), row by row."""
        shapes = [tuple(x.shape) for x in residuals]
        n_rows = shapes[0][0] if shapes and shapes[0] else 0
        if shapes != [(n_rows, width) for width in self.widths]:
            each = zip(self.models, self.widths, strict=True)
            wanted = ", ".join(f"{model} (token, {width})" for model, width in each)
            remedy = "Give one of each model, in this order, on the same tokens or units."
            raise InputError("residuals", shapes, f"these are needed: {wanted}", remedy)

    def joined(self, residuals: Sequence[Rows]) -> Rows:
        """(token, sum of widths), float32."""
        parts = [x.float() * scale for x, scale in zip(residuals, self.scales, strict=True)]
        return torch.cat(parts, dim=1)

    def parted(self, joined: Rows) -> tuple[Rows, ...]:
        """What `joined` was made of."""
        return tuple(
            joined[:, part] / scale for part, scale in zip(self.columns, self.scales, strict=True)
        )
