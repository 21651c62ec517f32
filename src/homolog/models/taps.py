"""`Taps`: what a run reads and edits, as the passes of all adapters see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from homolog.models.edits import Edit
from homolog.models.sites import Site, index_of


@dataclass
class Taps:
    """What a run reads and edits: an adapter passes each site's value through `taps(...)`."""

    reads: dict[Site, list[Site]]  # by whole site: its heads and positions that are asked for
    edits: dict[Site, list[Edit]]
    captured: dict[Site, Tensor] = field(default_factory=dict)
    text_from: ClassVar[int] = 0
    """How many positions of the pass stand before those that were asked for."""

    def touches(self, kind: str, layer: int | None = None) -> bool:
        site = Site(kind, layer)
        return site in self.reads or site in self.edits

    def replaces(self, kind: str, kinds: Sequence[str], layer: int) -> bool:
        """Whether edits put all of the site there, and none of the other `kinds` is read: what
        would have been there need not be computed.
        """
        edits = self.edits.get(Site(kind, layer), ())
        if not any(edit.puts_all for edit in edits):
            return False
        return not any(Site(other, layer) in self.reads for other in kinds if other != kind)

    def splits(self, kinds: Sequence[str], layer: int, inputs: Tensor) -> bool:
        """Whether the pass must go through one of the sites.

        It must where the site is edited, or read where gradients flow through it.  A site that is
        only read is otherwise computed beside the pass, which reading then cannot change.
        """
        passed = self.edits.keys() | (self.reads.keys() if inputs.requires_grad else set())
        return any(Site(kind, layer) in passed for kind in kinds)

    def read_positions(self, kind: str, layer: int, length: int) -> list[int]:
        """The window positions at which the site is read, ascending."""
        asked = self.reads.get(Site(kind, layer), [])
        if any(site.position is None for site in asked):
            return list(range(length))
        return sorted({index_of("position", site, site.position or 0, length) for site in asked})

    def edited_positions(self, kinds: Sequence[str], layer: int, length: int) -> list[int]:
        """The window positions at which one of the sites is edited for some prompt, ascending."""
        positions: set[int] = set()
        for edit in (edit for kind in kinds for edit in self.edits.get(Site(kind, layer), ())):
            at = edit.edited_positions(length)
            positions |= set(range(length) if at is None else at)
        return sorted(positions)

    def __call__(self, kind: str, layer: int | None, value: Tensor) -> Tensor:
        """The site's whole value, edited and captured as asked."""
        site = Site(kind, layer)
        for edit in self.edits.get(site, ()):
            value = edit.apply(value)
        for asked in self.reads.get(site, ()):
            self.captured[asked] = _part(value, asked)
        return value

    def at(self, kind: str, layer: int, position: int, length: int, value: Tensor) -> Tensor:
        """The edited value (batch, ...) of one position of a site that is computed so."""
        for edit in self.edits.get(Site(kind, layer), ()):
            value = edit.apply_at(value, position, length)
        return value

    def store(
        self, kind: str, layer: int, positions: list[int], value: Tensor, length: int
    ) -> None:
        """Capture a site computed at `positions` alone: value (batch, len(positions), ...)."""
        for asked in self.reads.get(Site(kind, layer), ()):
            if asked.position is None:
                self.captured[asked] = value
            else:
                at = index_of("position", asked, asked.position, length)
                self.captured[asked] = value[:, positions.index(at)]


NOTHING = Taps({}, {})


def _part(value: Tensor, site: Site) -> Tensor:
    """The head and position that the site names; a copy, so that the whole value can be freed."""
    if site == site.base:
        return value
    left = list(site.axes)
    for name, index in (("position", site.position), ("head", site.head)):
        if index is not None:
            axis = left.index(name)
            value = value.select(axis, index_of(name, site, index, value.shape[axis]))
            left.pop(axis)
    return value.clone()
