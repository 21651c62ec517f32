"""Decoders whose blocks are known inside: steps of mixers and MLPs over the residual stream.

    for each step of a block:   h <- h + the sum of what its branches add, all of which read h

A step may stand aside: what its one branch gives is then not added to the stream, but read by the
next step.  One that stands aside as well reads nothing else; one in the stream reads h plus that.

    aside <- branch(aside, or h where there is none);   h <- h + branch(h + aside)

A Transformer with attention and MLP side by side has one step of two branches, one after the other
two steps of one; a Mamba one step of one; a hybrid may have attention and a state space in the same
step, or in turn from block to block.  An adapter names its modules: `steps` of each block, and
where the trunk lies.  Models run in eval mode; dropout is not applied.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from homolog.axes import Residual
from homolog.errors import InputError
from homolog.models.blockwise import Blockwise
from homolog.models.guards import as_it_was
from homolog.models.mixer_edits import taps_of
from homolog.models.mixers.base import Branch, Context, Mixer, Norm
from homolog.models.sites import Site
from homolog.models.taps import Taps
from homolog.models.widening import apply_norm, widened

Step = tuple[Branch, ...]


class Flow(NamedTuple):
    """What one step of a block hands on to the next.

    h       the residual stream (..., d_model)
    aside   what the step before gives to the next alone; None where that has added to the stream
    """

    h: Tensor
    aside: Tensor | None = None

    def read_by(self, step: Step) -> Tensor:
        """What the branches of the next step read."""
        if self.aside is None:
            return self.h
        return self.aside if stands_aside(step) else self.h + self.aside


def stands_aside(step: Step) -> bool:
    """Whether what a step gives is not added to the stream."""
    assert len(step) == 1 or not any(branch.aside for branch in step)
    return step[0].aside


@dataclass(frozen=True)
class Trunk:
    """Where the modules of an architecture lie: dotted names in the model.

    rotary makes tables of positions; None where nothing is rotated, or everything by itself.
    """

    blocks: str
    final_norm: str
    rotary: str | None = None


class Decoder(Blockwise):
    """Base of the adapters that say what their blocks are made of.

    layers   the steps of every block, in order
    """

    trunk: Trunk
    residual_in_float32 = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.architecture = str(self.hf.config.model_type)
        self.layers: list[tuple[Step, ...]] = []
        for layer, block in enumerate(self.blocks()):
            self.layers.append(tuple(tuple(step) for step in self.steps(layer, block)))

    @abstractmethod
    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        """What a block is made of."""

    def blocks(self) -> Any:
        return self.hf.get_submodule(self.trunk.blocks)

    def final_norm(self, h: Residual) -> Residual:
        norm = self.hf.get_submodule(self.trunk.final_norm)
        return apply_norm(norm, h)

    # --- parts

    def branches(self, layer: int) -> list[Branch]:
        """All parts of a block, in the order of the pass."""
        return [branch for step in self.layers[layer] for branch in step]

    def mixers(self, layer: int | None = None) -> list[Mixer]:
        """The mixers of a block, or of all blocks, in the order of the pass."""
        layers = range(self.n_layers) if layer is None else [layer]
        return [b for at in layers for b in self.branches(at) if isinstance(b, Mixer)]

    def mixer(self, site: Site | str) -> Mixer:
        """The mixer that a site of its block belongs to, by readout or any other of its kinds."""
        site = Site.parse(site)
        return next(m for m in self.mixers(site.layer or 0) if site.kind in m.sites)

    def place_of(self, branch: Branch) -> tuple[int, int]:
        """Its block, and its step there."""
        steps = self.layers[branch.layer]
        return branch.layer, next(i for i, step in enumerate(steps) if branch in step)

    def step_of(self, branch: Branch) -> Step:
        """Those that read with it."""
        layer, step = self.place_of(branch)
        return self.layers[layer][step]

    def stream_kind(self, layer: int, step: int) -> str:
        """The kind of the stream before a step of a block."""
        before = self.layers[layer][:step]
        return "resid_pre" if all(map(stands_aside, before)) else "resid_mid"

    def flow_sites(self, branch: Branch) -> list[Site]:
        """Where the flow before the step of a branch is read: the stream, and what stands aside."""
        layer, step = self.place_of(branch)
        sites, before = [Site(self.stream_kind(layer, step), layer)], self.layers[layer][:step]
        if before and stands_aside(before[-1]):
            sites.append(Site(before[-1][0].out, layer))
        return sites

    def reads_embeddings_after(self, layer: int) -> bool:
        later = range(layer + 1, self.n_layers)
        return any(branch.beside for n in later for branch in self.branches(n))

    def layer_kinds(self, layer: int) -> tuple[str, ...]:
        kinds: list[str] = []
        for i, step in enumerate(self.layers[layer]):
            kinds += [self.stream_kind(layer, i), *(kind for b in step for kind in b.sites)]
        return (*dict.fromkeys(kinds), "resid")

    def layer_neurons(self, layer: int) -> tuple[str, ...]:
        kinds = tuple(kind for branch in self.branches(layer) for kind in branch.neurons)
        if not kinds:
            requirement = f"block {layer} has no neurons: it is attention or experts alone"
            remedy = "Choose other layers, or set controls.neurons = false."
            raise InputError("model", self.name, requirement, remedy)
        return kinds

    # --- a pass

    def block(self, layer: int, h: Residual, context: Context, taps: Taps) -> Residual:
        flow = Flow(h)
        for i, step in enumerate(self.layers[layer]):
            if i and flow.aside is None:
                flow = Flow(taps(self.stream_kind(layer, i), layer, flow.h))
            read = flow.read_by(step)
            flow = self.after(step, flow, [self._given(b, read, context, taps) for b in step])
        return flow.h

    @staticmethod
    def _given(branch: Branch, read: Tensor, context: Context, taps: Taps) -> Tensor:
        """What a branch adds to the stream; it is not computed where edits put all of it there."""
        if taps.replaces(branch.out, branch.sites, branch.layer):
            return taps(branch.out, branch.layer, torch.empty_like(read))
        return branch(read, context, taps_of(branch, context, taps))

    def after(self, step: Step, flow: Flow, outs: Sequence[Tensor]) -> Flow:
        """What a step hands on, from what its branches give."""
        if stands_aside(step):
            return Flow(flow.h, outs[0])
        return Flow(self.added(flow.h, outs))

    def added(self, h: Tensor, outs: Sequence[Tensor]) -> Tensor:
        """The stream with what the branches of a step add."""
        total = reduce(torch.add, reversed(outs))
        return (widened(h) if self.residual_in_float32 else h) + total

    def context(self, embedded: Residual) -> Context:
        length = embedded.shape[1]
        return self.context_at(torch.arange(length, device=embedded.device)[None], length, embedded)

    def context_at(self, positions: Tensor, length: int, embedded: Tensor) -> Context:
        """Rotary tables of some positions of a window of `length`, by kind of block.

        embedded   what block 0 read there, (..., d_model)
        positions (...) -> (..., rotary dimensions) each, in the dtype of `embedded`.  The
        frequencies of some models follow the window's length, so that the whole window's table is
        made; nothing of it stays in the module.
        """
        if self.trunk.rotary is None:
            return {None: None}
        module: Any = self.hf.get_submodule(self.trunk.rotary)
        with as_it_was(module):
            every = torch.arange(length, device=embedded.device)
            tables = self.rotary_tables(module, every, embedded)
        return {kind: (cos[0, positions], sin[0, positions]) for kind, (cos, sin) in tables.items()}

    def rotary_tables(
        self, module: Any, positions: Tensor, like: Tensor
    ) -> dict[str | None, tuple[Tensor, Tensor]]:
        """Cosines and sines (1, position, rotary dimensions) by kind of block."""
        return {None: module(like, position_ids=positions[None])}


def normed(norm: Any) -> Norm:
    """What a norm module makes of a stream."""
    return lambda h: apply_norm(norm, h)


def times(factor: float, before: Norm | None = None) -> Norm | None:
    """A norm's output times a factor; None where there is nothing to do."""
    if factor == 1:
        return before
    return lambda x: (x if before is None else before(x)) * factor
