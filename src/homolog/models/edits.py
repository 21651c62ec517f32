"""Interventions as values: what to put at a site, and at which positions, heads or channels of it.

An edit never changes the tensor it is given; it returns a new one, differentiable in both the old
value and the one it puts there.  Each selector is None for everything.  `positions` may differ from
prompt to prompt: an int64 tensor (batch,) or (batch, n).  Values have the shape that capturing the
site gives, cut to the selection, or broadcast to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from homolog.errors import InputError
from homolog.models.runs import Run
from homolog.models.sites import Site, index_of

Selection = list[tuple[int, Tensor]]
"""(axis, indices): (n,), or (batch, n) where they differ from prompt to prompt."""
CHANNEL_AXES = ("d_inner", "d_mlp", "d_model", "d_head", "key_position")


@dataclass(frozen=True, eq=False)
class Edit:
    """Base of all edits.

    site        a Site or its name; a head or position in the name selects it, and values then lack
                that axis
    positions   indices into the window, negative ones from its end; or a tensor with each prompt's
                own
    heads       attention heads
    channels    indices along the width: d_inner, d_mlp, d_model or d_head (of a pattern: key
                positions)
    state_dims  dimensions of the state, for B, C and whatever has a d_state axis
    taps        taps of the convolution, for conv_taps; the last one reads the current position
    """

    site: Site | str
    positions: Sequence[int] | Tensor | None = field(default=None, kw_only=True)
    heads: Sequence[int] | None = field(default=None, kw_only=True)
    channels: Sequence[int] | None = field(default=None, kw_only=True)
    state_dims: Sequence[int] | None = field(default=None, kw_only=True)
    taps: Sequence[int] | None = field(default=None, kw_only=True)

    @property
    def puts_all(self) -> bool:
        """Whether what was at the site is nowhere in what stands there afterwards."""
        selectors = (self.positions, self.heads, self.channels, self.state_dims, self.taps)
        site = Site.parse(self.site)
        return self.brings and site == site.base and all(given is None for given in selectors)

    @property
    def brings(self) -> bool:
        """Whether what it puts there does not depend on what was there."""
        return False

    def operand(self, selection: Selection) -> Tensor | None:
        """The tensor that the edit brings: its shape broadcasts to that of the selected part."""
        return None

    def combine(self, old: Tensor, operand: Tensor | None) -> Tensor:
        """What stands at the selected places afterwards; `old` is the selected part."""
        usable = "Replace, Add, Zero, Mean, Resample or Transform"
        raise TypeError(f"{type(self).__name__} cannot be applied; use {usable}")

    def apply(self, value: Tensor) -> Tensor:
        """The edited copy of a site's whole `value`.  InputError: wrong index or shape."""
        selection = self.selection(value.shape)
        return self._put(value, selection, self._operand(selection, value.shape))

    def apply_at(self, value: Tensor, position: int, length: int) -> Tensor:
        """The edited copy of `value` (batch, ...): the site at one of `length` positions.

        For sites that are computed one position after the other, as the state is.
        """
        shape = (value.shape[0], length, *value.shape[1:])
        selection = self.selection(shape)
        at = next((index for axis, index in selection if axis == 1), torch.arange(length))
        hit = (at == position).expand(value.shape[0], -1).to(value.device)
        if not hit.any():
            return value
        operand = self._operand(selection, shape)
        if operand is not None and 1 not in self._dropped():
            rows = torch.arange(len(value), device=operand.device)
            operand = operand[rows, hit.long().argmax(1).to(operand.device)].unsqueeze(1)
        elsewhere = [part for part in selection if part[0] != 1]
        edited = self._put(value.unsqueeze(1), elsewhere, operand).squeeze(1)
        return torch.where(hit.any(1).view(-1, *[1] * (value.ndim - 1)), edited, value)

    def edited_positions(self, length: int) -> list[int] | None:
        """The window positions that are edited for some prompt, ascending; None for all of them."""
        field, given = self._given_at("position")
        if given is None:
            return None
        return sorted(set(indices_of(field, given, length, self.site).flatten().tolist()))

    def selection(self, shape: Sequence[int]) -> Selection:
        """The chosen indices along each restricted axis of a site's whole value of that shape."""
        site = Site.parse(self.site)
        chosen: dict[str, tuple[str, Any]] = {
            "position": self._given_at("position"),
            "head": self._given_at("head"),
            "d_state": ("state_dims", self.state_dims),
            "tap": ("taps", self.taps),
        }
        chosen |= {axis: ("channels", self.channels) for axis in CHANNEL_AXES if axis in site.axes}
        for axis, (name, given) in chosen.items():
            if given is not None and axis not in site.axes:
                requirement = f"{site} has no {axis} axis; its axes are {', '.join(site.axes)}"
                remedy = f"Leave {name} out, or edit another site."
                raise InputError(name, given, requirement, remedy)
        if self.channels is not None and not any(axis in site.axes for axis in CHANNEL_AXES):
            requirement = f"{site} has the axes {', '.join(site.axes)}"
            remedy = "Use state_dims for its last axis."
            raise InputError("channels", self.channels, requirement, remedy)
        return [
            (axis, indices_of(chosen[name][0], chosen[name][1], shape[axis], site))
            for axis, name in enumerate(site.axes)
            if name in chosen and chosen[name][1] is not None
        ]

    def _given_at(self, axis: str) -> tuple[str, Any]:
        """The positions or heads to edit, after the field that gave them: selector, or name."""
        selector = getattr(self, f"{axis}s")
        if selector is None:
            return axis, getattr(Site.parse(self.site), axis)
        return f"{axis}s", selector

    def _put(self, value: Tensor, rest: Selection, operand: Tensor | None) -> Tensor:
        if not rest:
            return self._combined(value, operand)
        (axis, index), *inner = rest
        index = index.to(value.device)
        if index.ndim == 1:
            old = value.index_select(axis, index)
            return value.index_copy(axis, index, self._put(old, inner, operand))
        spread = _spread(index, axis, value, self.site)
        return value.scatter(axis, spread, self._put(value.gather(axis, spread), inner, operand))

    def _combined(self, old: Tensor, operand: Tensor | None) -> Tensor:
        shown = old
        for axis in reversed(self._dropped()):
            shown = shown.squeeze(axis)
        operand = None if operand is None else operand.to(old.device, old.dtype)
        new = self._fitted(self.combine(shown, operand), tuple(shown.shape))
        new = new.to(old.device, old.dtype)
        for axis in self._dropped():
            new = new.unsqueeze(axis)
        return new

    def _operand(self, selection: Selection, shape: Sequence[int]) -> Tensor | None:
        """The operand broadcast to the selected part of a site of `shape`."""
        operand = self.operand(selection)
        return None if operand is None else self._fitted(operand, self._shown(shape, selection))

    def _fitted(self, value: Tensor, shape: tuple[int, ...]) -> Tensor:
        """`value` broadcast to `shape`; InputError when it does not."""
        try:
            return value.expand(shape)
        except RuntimeError:
            requirement = f"{self.site} takes the shape {shape}"
            remedy = "Pass that shape, or one that broadcasts to it."
            raise InputError("edit value", tuple(value.shape), requirement, remedy) from None

    def _shown(self, shape: Sequence[int], selection: Selection) -> tuple[int, ...]:
        """The shape of the selected part of a site of `shape`, without axes that the name drops."""
        sizes = list(shape)
        for axis, index in selection:
            sizes[axis] = index.shape[-1]
        return tuple(size for axis, size in enumerate(sizes) if axis not in self._dropped())

    def _dropped(self) -> list[int]:
        """The axes that the site's name chooses one of; values come without them."""
        site = Site.parse(self.site)
        named = (("position", site.position, self.positions), ("head", site.head, self.heads))
        return sorted(
            site.axes.index(axis) for axis, one, field in named if one is not None and field is None
        )

    def _from(self, source: Run, selection: Selection, rows: Tensor | None = None) -> Tensor:
        """What another run captured at the site, cut to the selection; for prompt i `rows[i]`'s."""
        site, dropped = Site.parse(self.site), self._dropped()
        captured = site != site.base and site in source.captured and len(dropped) == site.n_chosen
        value = source[site if captured else site.base]
        value = value if rows is None else value[rows.to(value.device)]
        if captured:
            for axis in dropped:
                value = value.unsqueeze(axis)
            selection = [part for part in selection if part[0] not in dropped]
        for axis, index in selection:
            index = index.to(value.device)
            if index.ndim == 1:
                value = value.index_select(axis, index)
            else:
                value = value.gather(axis, _spread(index, axis, value, self.site))
        for axis in reversed(dropped):
            value = value.squeeze(axis)
        return value


@dataclass(frozen=True, eq=False)
class _WithValue(Edit):
    """Base of the edits that bring a tensor of the user's, to put it there or to add it."""

    value: Tensor | None = None

    def operand(self, selection: Selection) -> Tensor:
        if self.value is None:
            name = type(self).__name__
            raise InputError("value", None, f"{name} needs a tensor", "Pass value=...")
        return self.value

    def combine(self, old: Tensor, operand: Tensor | None) -> Tensor:
        return old if operand is None else operand


@dataclass(frozen=True, eq=False)
class Replace(_WithValue):
    """Put `value` there."""

    @property
    def brings(self) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class Add(_WithValue):
    """Add `value` to what is there."""

    def combine(self, old: Tensor, operand: Tensor | None) -> Tensor:
        return old if operand is None else old + operand


@dataclass(frozen=True, eq=False)
class Zero(Edit):
    """Put zeros there."""

    @property
    def brings(self) -> bool:
        return True

    def combine(self, old: Tensor, operand: Tensor | None) -> Tensor:
        return torch.zeros_like(old)


@dataclass(frozen=True, eq=False)
class Mean(Edit):
    """Put the mean over the prompts there.

    source: a run that captured the site, whose prompts they are; None: those of this batch.
    """

    source: Run | None = None

    @property
    def brings(self) -> bool:
        return self.source is not None

    def operand(self, selection: Selection) -> Tensor | None:
        if self.source is None:
            return None
        return self._from(self.source, selection).mean(dim=0, keepdim=True)

    def combine(self, old: Tensor, operand: Tensor | None) -> Tensor:
        return old.mean(dim=0, keepdim=True) if operand is None else operand

    def apply_at(self, value: Tensor, position: int, length: int) -> Tensor:
        at = self.positions
        if self.source is None and isinstance(at, Tensor) and not bool((at == at[:1]).all()):
            requirement = (
                f"{self.site} is computed position by position, so this batch's "
                "mean there needs one position for all prompts"
            )
            raise InputError("positions", at.tolist(), requirement, "Pass source=run.")
        return super().apply_at(value, position, length)


@dataclass(frozen=True, eq=False)
class Resample(Edit):
    """Put there what another run, `source`, has at the site.

    For prompt i it is that of prompt i, or with `rows` that of `rows[i]`.
    """

    source: Run | None = None
    rows: Tensor | None = None

    @property
    def brings(self) -> bool:
        return True

    def operand(self, selection: Selection) -> Tensor:
        if self.source is None:
            requirement = "Resample needs a run that captured the site"
            raise InputError("source", None, requirement, "Pass source=run.")
        return self._from(self.source, selection, self.rows)

    def combine(self, old: Tensor, operand: Tensor | None) -> Tensor:
        return old if operand is None else operand


@dataclass(frozen=True, eq=False)
class Transform(Edit):
    """Put `function(old)` there, for example the reconstruction by a dictionary.

    At a state site it is called position by position, with a position axis of length 1.
    """

    function: Callable[[Tensor], Tensor] | None = None

    def combine(self, old: Tensor, operand: Tensor | None) -> Tensor:
        if self.function is None:
            requirement = "Transform needs a function of the old value"
            raise InputError("function", None, requirement, "Pass function=...")
        return self.function(old)


def indices_of(field: str, given: Any, length: int, site: Site | str) -> Tensor:
    """Indices along an axis, none negative: (n,), or (batch, n) from a tensor of positions."""
    if isinstance(given, Tensor):
        index = given.long() if given.ndim > 1 else given.long()[:, None]
    else:
        index = torch.tensor([given] if isinstance(given, int) else list(given), dtype=torch.long)
    outside = index[(index < -length) | (index >= length)]
    if outside.numel():
        index_of(field, Site.parse(site), int(outside[0]), length)
    return torch.where(index < 0, index + length, index)


def _spread(index: Tensor, axis: int, value: Tensor, site: Site | str) -> Tensor:
    """(batch, n) as an index for gather and scatter along `axis` of `value`."""
    if len(index) != len(value):
        requirement = f"the batch at {site} has {len(value)} prompts"
        remedy = "Give one row of positions a prompt."
        raise InputError("positions", tuple(index.shape), requirement, remedy)
    shape = [1] * value.ndim
    shape[0], shape[axis] = index.shape
    sizes = (index.shape[1] if i == axis else n for i, n in enumerate(value.shape))
    return index.view(shape).expand(*sizes)
