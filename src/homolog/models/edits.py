"""Interventions as values: what to put at a site, and at which positions.

An edit never changes the tensor it is given; it returns a new one.  `positions` is None for all of them, or indices
into the window (negative ones count from its end).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from homolog.errors import InputError
from homolog.models.sites import Site


@dataclass(frozen=True)
class Edit:
    """Base of all edits.  `site` is a Site or its name."""

    site: Site | str
    positions: tuple[int, ...] | None = None

    def new_value(self, old: Tensor) -> Tensor:
        """What stands at the edited positions afterwards; `old` is (batch, edited positions, width)."""
        raise TypeError(
            f"{type(self).__name__} is not an edit that can be applied; use Replace, Add, Zero or Transform"
        )

    def apply(self, value: Tensor) -> Tensor:
        """The edited copy of `value` (batch, position, width).  InputError: a position out of range, a wrong shape."""
        length = value.shape[1]
        if self.positions is None:
            new = self.new_value(value)
            self._check(new, value)
            return new.to(value.dtype).expand_as(value)
        for p in self.positions:
            if not -length <= p < length:
                raise InputError(
                    "positions",
                    p,
                    f"the window at {self.site} has {length} positions",
                    f"Use {-length} to {length - 1}.",
                )
        index = torch.tensor(self.positions, device=value.device)
        index = torch.where(index < 0, index + length, index)
        old = value.index_select(1, index)
        new = self.new_value(old)
        self._check(new, old)
        return value.index_copy(1, index, new.to(value.dtype).expand_as(old))

    def _check(self, new: Tensor, old: Tensor) -> None:
        try:
            fits = torch.broadcast_shapes(new.shape, old.shape) == old.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise InputError(
                "edit value",
                tuple(new.shape),
                f"{self.site} takes the shape {tuple(old.shape)}",
                "Pass that shape, or one that broadcasts to it.",
            )


@dataclass(frozen=True)
class Replace(Edit):
    """Put `value` there: (batch, edited positions, width), or a shape that broadcasts to it."""

    value: Tensor | None = None

    def new_value(self, old: Tensor) -> Tensor:
        return _given(self).to(old.device)


@dataclass(frozen=True)
class Add(Edit):
    """Add `value` to what is there."""

    value: Tensor | None = None

    def new_value(self, old: Tensor) -> Tensor:
        value = _given(self).to(old.device, old.dtype)
        self._check(value, old)
        return old + value


@dataclass(frozen=True)
class Zero(Edit):
    """Put zeros there."""

    def new_value(self, old: Tensor) -> Tensor:
        return torch.zeros_like(old)


@dataclass(frozen=True)
class Transform(Edit):
    """Put `function(old)` there, for example the reconstruction by a dictionary."""

    function: Callable[[Tensor], Tensor] | None = None

    def new_value(self, old: Tensor) -> Tensor:
        if self.function is None:
            raise InputError("function", None, "Transform needs a function of the old value", "Pass function=...")
        return self.function(old)


def _given(edit: Replace | Add) -> Tensor:
    if edit.value is None:
        raise InputError("value", None, f"{type(edit).__name__} needs a tensor", "Pass value=...")
    return edit.value
