"""Nodes and edges of a model, and what a corrupt prompt changes on each edge.

The nodes are the parts whose outputs sum up to the residual stream.  A node reads the sum of what
the embedding and all nodes before it have added, so that an edge from u to v can be patched alone:
add u's difference (corrupt minus clean) at a position to the input of v.

    attention    senders    head_out.L.H; attn_out.L where the block norms the sum of the heads
                 receivers  query_in.L.H, key_in.L.H, value_in.L.H
    recurrences  senders    mixer_out.L         receivers  mixer_in.L
    MLPs         senders    mlp_out.L           receivers  mlp_in.L
    besides      senders    embed               receivers  logits; embed_in.L where blocks read the
                                                           embeddings again
    in a mixer   conv_in.L -> conv_taps.L   what tap j brings from K - 1 - j positions before
                 write.L -> state.L         what a position adds to the state, for it and all later

The logits read the residual stream after the last block, at the last position.  An edge's position
is that of its receiver.  Positions have labels, so that prompts with the same parts in different
places can be summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from homolog.circuits.known import require_paths
from homolog.corpus.tasks.pairs import PromptPairs
from homolog.models.base import LanguageModel
from homolog.models.decoder import Decoder, stands_aside
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.base import Branch, Context, Inputs, Mixer
from homolog.models.mixers.linear_mixer import LinearMixer
from homolog.models.mixers.projections import READS
from homolog.models.runs import Run
from homolog.models.sites import Site
from homolog.models.widening import widened

LOGITS = "logits"
OTHER = "other"


@dataclass(frozen=True)
class Receiver:
    """A place that reads the residual stream: all heads of a block at once where it has heads.

    senders   indices of those of `senders(model)` whose sum it reads, ascending
    """

    site: Site
    senders: tuple[int, ...]


def nodes(model: LanguageModel) -> list[Site]:
    """Heads, recurrences and MLPs of every block: what the residual stream is the sum of."""
    known = require_paths(model)
    return [site for n in range(known.n_layers) for b in known.branches(n) for site in adds(b)]


def adds(branch: Branch) -> list[Site]:
    """What a branch adds to the stream: each head by itself, where their sum is added as it is."""
    if isinstance(branch, Attention) and branch.additive:
        return [Site("head_out", branch.layer, head) for head in range(branch.n_heads)]
    return [Site(branch.out, branch.layer)]


def reads(branch: Branch) -> list[Site]:
    """Where a branch reads the stream, or what stands aside."""
    if isinstance(branch, Attention):
        return [Site(f"{read}_in", branch.layer) for read in READS]
    return [Site(branch.stream, branch.layer)]


def senders(model: LanguageModel) -> list[Site]:
    """The embedding and all nodes, in the order of the pass."""
    return [Site("embed"), *nodes(model)]


def receivers(model: LanguageModel) -> list[Receiver]:
    """All places that read the residual stream, in the order of the pass; last, the logits'."""
    known, places, n = require_paths(model), [], 1
    stream, aside = [0], []
    for layer in range(known.n_layers):
        for step in known.layers[layer]:
            read = tuple(aside if aside and stands_aside(step) else [*stream, *aside])
            for branch in step:
                places += [Receiver(site, read) for site in reads(branch)]
                places += [Receiver(Site(branch.beside, layer), (0,))] if branch.beside else []
            own = list(range(n, n + sum(len(adds(branch)) for branch in step)))
            n += len(own)
            stream, aside = (stream, own) if stands_aside(step) else ([*stream, *own], [])
    return [*places, Receiver(Site("resid", model.n_layers - 1), tuple(stream))]


def ends(model: LanguageModel) -> dict[str, tuple[Site, ...]]:
    """The nodes that a sender or receiver of an edge is part of, by name; none for the ends.

    A key or value head stands for all query heads that read it.
    """
    known, table = require_paths(model), {LOGITS: (), "embed": ()}
    for layer in range(known.n_layers):
        for branch in known.branches(layer):
            own = adds(branch)
            table |= {str(site): (site,) for site in own}
            table |= {str(site): tuple(own) for site in reads(branch)}
            inner = [branch.beside]
            inner += [branch.local, branch.local_taps] if isinstance(branch, Mixer) else []
            inner += [branch.write, branch.state] if isinstance(branch, LinearMixer) else []
            table |= {f"{kind}.{layer}": tuple(own) for kind in inner if kind}
            if isinstance(branch, Attention):
                table |= _read_by(branch, own)
    return table


def _read_by(attention: Attention, own: list[Site]) -> dict[str, tuple[Site, ...]]:
    """By the place that one head reads at, the nodes that read there."""
    layer, shared = attention.layer, attention.n_heads // attention.n_kv_heads
    each = {
        "query_in": [[h] for h in range(attention.n_heads)],
        "key_in": [list(range(k * shared, (k + 1) * shared)) for k in range(attention.n_kv_heads)],
    }
    each["value_in"] = each["key_in"]
    return {
        f"{kind}.{layer}.{i}": tuple(own[h] for h in heads) if len(own) > 1 else tuple(own)
        for kind, groups in each.items()
        for i, heads in enumerate(groups)
    }


def position_labels(pairs: PromptPairs) -> tuple[list[str], Int64[Tensor, "prompt position"]]:
    """Labels, and each position's: the first of `pairs.positions` that is there, else "other"."""
    names = [*(name for name in pairs.positions if name != OTHER), OTHER]
    index = torch.full(pairs.clean.shape, len(names) - 1)
    for label, name in reversed(list(enumerate(names[:-1]))):
        index[torch.arange(len(pairs)), pairs.positions[name]] = label
    return names, index


@dataclass(frozen=True)
class Contrast:
    """The clean and the corrupt run of some prompts; on every edge, corrupt minus clean."""

    model: Decoder
    clean: Run
    corrupt: Run

    @classmethod
    def of(cls, model: LanguageModel, pairs: PromptPairs, more: tuple[Site, ...] = ()) -> Contrast:
        """Both runs without gradients; `more` are sites to capture of the clean one."""
        model = require_paths(model.plain)  # the prompts hold what they begin with
        places = list(dict.fromkeys(site.base for site in senders(model)))
        for mixer in with_states(model):
            kinds = [*mixer.inputs, *([mixer.local_taps] if mixer.local_taps else [])]
            places += [Site(kind, mixer.layer) for kind in (mixer.readout, *kinds)]
        with torch.no_grad():
            clean = model.run(pairs.clean, capture=[*places, *more], last_only=True)
            corrupt = model.run(
                pairs.corrupt, capture=places, stop_after=f"resid.{model.n_layers - 1}"
            )
        return cls(model, clean, corrupt)

    @property
    def logits(self) -> Float[Tensor, "prompt vocabulary"]:
        """Of the clean run, at the last position."""
        assert self.clean.logits is not None
        return self.clean.logits[:, -1]

    @cached_property
    def streams(self) -> Float[Tensor, "prompt position sender d_model"]:
        """What each of `senders(model)` adds to the residual stream, corrupt minus clean."""
        places = dict.fromkeys(site.base for site in senders(self.model))
        changes = [self._change(site) for site in places]
        return torch.cat(
            [change if change.ndim == 4 else change.unsqueeze(2) for change in changes], dim=2
        )

    def taps(self, mixer: Mixer) -> Float[Tensor, "prompt position tap channel"]:
        """What each tap of a mixer's local part brings."""
        assert mixer.local_taps is not None
        return self._change(Site(mixer.local_taps, mixer.layer))

    def _change(self, site: Site) -> Tensor:
        return widened(self.corrupt[site]) - widened(self.clean[site])

    @cached_property
    def inputs(self) -> dict[LinearMixer, tuple[Inputs, Inputs]]:
        """What every position of each mixer with states enters with, clean and corrupt."""
        return {
            mixer: (self.inputs_of(mixer, self.clean), self.inputs_of(mixer, self.corrupt))
            for mixer in with_states(self.model)
        }

    def inputs_of(self, mixer: Mixer, run: Run) -> Inputs:
        """What every position of a mixer enters with in some run of these prompts."""
        values = {kind: run[Site(kind, mixer.layer)] for kind in mixer.inputs}
        return mixer.prepared(values, self._context)

    @cached_property
    def _context(self) -> Context:
        return self.model.context(self.clean["embed"])

    def written(self, mixer: LinearMixer, mask: Bool[Tensor, "prompt position"]) -> Tensor:
        """The change of a mixer's readout when the writes where `mask` is are corrupt.

        What becomes of a write on the way, and what reads, is clean.
        """
        clean, corrupt = self.inputs[mixer]
        share = mask.to(self.clean[Site(mixer.readout, mixer.layer)])
        return mixer.replayed(clean, clean, corrupt, share) - mixer.replayed(
            clean, clean, corrupt, torch.zeros_like(share)
        )


def with_states(model: LanguageModel) -> list[LinearMixer]:
    """The mixers whose writes into a state are edges."""
    mixers = require_paths(model).mixers()
    return [m for m in mixers if isinstance(m, LinearMixer) and m.state != m.write]


def with_states_at(model: LanguageModel, layer: int | None) -> LinearMixer | None:
    """That of one block, if it has one."""
    return next((mixer for mixer in with_states(model) if mixer.layer == layer), None)
