"""Edits of what a mixer reads out that need more than the readout: what its positions enter with.

`Knockout` removes edges from positions to later ones of one mixer.  With alpha and carried as in
`mixers.base.Mixer.attention`, and N the edges removed:

    readout[t] <- readout[t] + sum over s of (alpha without N - alpha)[t, s] carried[s]

    attention        alpha without N is the softmax in which those scores are -inf: that of the
                     positions left, and the sink, sums to one again [Geva 2023]
    RWKV-4           the same: what s writes is missing in numerator and denominator
    other mixers     alpha without N is alpha, zero at N: what s carries is missing at t

Nothing else changes: other positions read s as before, and it stays in the memory.  A position of
which nothing is left that it may read is NaN in attention and RWKV-4.

Source: Geva et al., "Dissecting Recall of Factual Associations in Auto-Regressive Language Models",
2023, section 5.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from homolog.errors import InputError
from homolog.models.edits import Edit, indices_of
from homolog.models.mixers.base import Branch, Context, Inputs, Mixer
from homolog.models.sites import Site
from homolog.models.taps import Taps
from homolog.models.widening import widened

Positions = int | Sequence[int] | Tensor


@dataclass(frozen=True, eq=False)
class MixerEdit(Edit):
    """An edit at the readout of a mixer, that sees what the positions enter with."""

    def apply(self, value: Tensor) -> Tensor:
        requirement = "it must be what a mixer reads out, of an adapter that says how"
        remedy = "docs/architectures.md lists the architectures whose does."
        raise InputError("site", str(self.site), requirement, remedy)

    @abstractmethod
    def of_mixer(self, mixer: Mixer, readout: Tensor, inputs: Inputs, text_from: int) -> Tensor:
        """What stands there instead of the readout (batch, position, ...).

        text_from   how many positions stand before those that the edit speaks of
        """


@dataclass(frozen=True, eq=False)
class Knockout(MixerEdit):
    """Let positions not hear others, in one mixer: no edge from `key` to `query`.

    site    the mixer's readout: "z.2" of attention, "z.2.3" of one head, "y.5" of a recurrence
    query   positions that do not hear; by default the one that the site names, or all
    key     positions that are not heard; with several of both, no edge between any of them
    heads   of attention, SSD and the delta rule; channels of the other recurrences.  All by default
    Positions are indices, negative ones from the window's end, or an int64 tensor (batch,) or
    (batch, n) with each prompt's own.  Errors, in the run: InputError for sites that are no
    readout, positions outside of the window, and where what stands between `key` and the readout (a
    pattern, a write, a state) is edited in the same run.
    """

    query: Positions | None = None
    key: Positions | None = None

    def of_mixer(self, mixer: Mixer, readout: Tensor, inputs: Inputs, text_from: int) -> Tensor:
        carried = mixer.carried(inputs)
        removed = self._removed(len(readout), carried, text_from).to(readout.device)
        queries = removed.any(-1).flatten(0, 1).any(0).nonzero().flatten()
        if not len(queries):
            return readout
        at, gone = queries.tolist(), removed[:, :, queries]
        change = mixer.attention(inputs, at, gone) - mixer.attention(inputs, at)
        change = torch.einsum("nhts,nshd->nthd", change, carried.to(change))
        new = widened(readout[:, queries])
        new = new + change.reshape(new.shape).to(new)
        return readout.index_copy(1, queries, new.to(readout.dtype))

    def _removed(self, batch: int, carried: Tensor, text_from: int) -> Tensor:
        """Which edges are, (batch, head, query, key) of all positions of the pass."""
        site, (length, heads) = Site.parse(self.site), carried.shape[1:3]
        given = ("positions", "channels", "state_dims", "taps")
        if wrong := [name for name in given if getattr(self, name) is not None]:
            remedy = "Give query, key and heads."
            raise InputError(wrong[0], getattr(self, wrong[0]), "a Knockout has none", remedy)
        if self.key is None:
            requirement = "a Knockout needs the positions that are not heard"
            raise InputError("key", None, requirement, "Pass key=..., or Zero the site.")
        query = self.query if self.query is not None else site.position
        head = self.heads if self.heads is not None else site.head

        def hit(name: str, given: Positions | None, size: int, first: int) -> Tensor:
            """(batch, first + size)"""
            chosen = torch.zeros(batch, first + size, dtype=torch.bool)
            if given is None:
                chosen[:, first:] = True
                return chosen
            index = indices_of(name, given, size, site).cpu() + first
            return chosen.scatter(1, index.expand(batch, -1), True)

        of_query = hit("query", query, length - text_from, text_from)[:, None, :, None]
        of_key = hit("key", self.key, length - text_from, text_from)[:, None, None]
        return hit("head", head, heads, 0)[..., None, None] & of_query & of_key


@dataclass
class _Listening(Taps):
    """The taps of a mixer whose readout has such an edit: they keep what its positions enter with.

    Everything else is left to the taps of the run.
    """

    taps: Taps = field(kw_only=True)
    mixer: Mixer = field(kw_only=True)
    context: Context = field(kw_only=True)
    entered: Inputs = field(default_factory=dict, kw_only=True)

    def read_positions(self, kind: str, layer: int, length: int) -> list[int]:
        return self.taps.read_positions(kind, layer, length)

    def edited_positions(self, kinds: Sequence[str], layer: int, length: int) -> list[int]:
        return self.taps.edited_positions(kinds, layer, length)

    def at(self, kind: str, layer: int, position: int, length: int, value: Tensor) -> Tensor:
        return self.taps.at(kind, layer, position, length, value)

    def store(
        self, kind: str, layer: int, positions: list[int], value: Tensor, length: int
    ) -> None:
        self.taps.store(kind, layer, positions, value, length)

    def __call__(self, kind: str, layer: int | None, value: Tensor) -> Tensor:
        if kind != self.mixer.readout:
            value = self.taps(kind, layer, value)
            if kind in self.mixer.inputs:
                self.entered[kind] = value
            return value
        site = Site(kind, layer)
        inputs = self.mixer.prepared(self.entered, self.context)
        for edit in self.edits[site]:
            if isinstance(edit, MixerEdit):
                value = edit.of_mixer(self.mixer, value, inputs, self.taps.text_from)
            else:
                value = replace(self.taps, reads={}, edits={site: [edit]})(kind, layer, value)
        return replace(self.taps, edits={})(kind, layer, value)


def taps_of(branch: Branch, context: Context, taps: Taps) -> Taps:
    """The taps of a part of a block: those of the run, or such that know what enters it.

    InputError for an edit of a mixer at another site than its readout, or beside one of its memory.
    """
    own = [Site(kind, branch.layer) for kind in branch.sites]
    edited = [site for site in own if site in taps.edits]
    known = [s for s in edited if any(isinstance(edit, MixerEdit) for edit in taps.edits[s])]
    if not known:
        return taps
    if not isinstance(branch, Mixer) or known != [Site(branch.readout, branch.layer)]:
        requirement = "a Knockout is of what a mixer reads out"
        raise InputError("site", str(known[0]), requirement, "Name z.LAYER or y.LAYER.")
    first = 1 + max(branch.sites.index(kind) for kind in branch.inputs if kind in branch.sites)
    inside = set(own[first : branch.sites.index(branch.readout)])
    if wrong := [str(site) for site in edited if site in inside]:
        requirement = f"what {known[0]} reads is known where its memory is not edited"
        remedy = f"Leave out the edit of {wrong[0]}, or the Knockout."
        raise InputError("edits", wrong, requirement, remedy)
    of_run = (taps.reads, taps.edits, taps.captured)
    return _Listening(*of_run, taps=taps, mixer=branch, context=context)
