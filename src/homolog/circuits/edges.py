"""Nodes and edges of a model, and what a corrupt prompt changes on each edge.

The nodes are the parts whose outputs sum up to the residual stream.  A node reads the sum of what
the embedding and all nodes before it have added, so that an edge from u to v can be patched alone:
add u's difference (corrupt minus clean) at a position to the input of v.

    Transformer  senders    embed, head_out.L.H, mlp_out.L
                 receivers  query_in.L.H, key_in.L.H, value_in.L.H, mlp_in.L, logits
    Mamba        senders    embed, mixer_out.L
                 receivers  mixer_in.L, logits
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

from homolog.corpus.tasks.pairs import PromptPairs
from homolog.models.base import LanguageModel
from homolog.models.widening import widened
from homolog.models.mamba import Mamba
from homolog.models.runs import Run
from homolog.models.scan import selective_scan
from homolog.models.sites import Site
from homolog.models.transformer import READS, Transformer

LOGITS = "logits"
OTHER = "other"
# as a dt it decays nothing in float64; what is divided by it stays finite in float32
SMALLEST_STEP = 1e-20
_INNER = ("conv_taps", "ssm_input", "dt", "B", "C")


@dataclass(frozen=True)
class Receiver:
    """A place that reads the residual stream: all heads of a block at once where it has heads.

    n_senders   it reads the first so many of `senders(model)`
    """

    site: Site
    n_senders: int


def nodes(model: LanguageModel) -> list[Site]:
    """Heads and MLPs of every block, or its mixer: what the residual stream is the sum of."""
    if not isinstance(model, Transformer):
        return [Site("mixer_out", layer) for layer in range(model.n_layers)]
    heads = range(model.n_heads)
    blocks = (
        [*(Site("head_out", layer, head) for head in heads), Site("mlp_out", layer)]
        for layer in range(model.n_layers)
    )
    return [site for block in blocks for site in block]


def senders(model: LanguageModel) -> list[Site]:
    """The embedding and all nodes, in the order of the pass."""
    return [Site("embed"), *nodes(model)]


def receivers(model: LanguageModel) -> list[Receiver]:
    """All places that read the residual stream, in the order of the pass; last, the logits'."""
    places = []
    for layer in range(model.n_layers):
        if isinstance(model, Transformer):
            before = 1 + layer * (model.n_heads + 1)
            places += [Receiver(Site(f"{read}_in", layer), before) for read in READS]
            heard = before if model.parallel else before + model.n_heads
            places.append(Receiver(Site("mlp_in", layer), heard))
        else:
            places.append(Receiver(Site("mixer_in", layer), 1 + layer))
    return [*places, Receiver(Site("resid", model.n_layers - 1), len(senders(model)))]


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

    model: LanguageModel
    clean: Run
    corrupt: Run

    @classmethod
    def of(cls, model: LanguageModel, pairs: PromptPairs, more: tuple[Site, ...] = ()) -> Contrast:
        """Both runs without gradients; `more` are sites to capture of the clean one."""
        model = model.plain  # the prompts hold what they begin with
        places = list(dict.fromkeys(site.base for site in senders(model)))
        if isinstance(model, Mamba):
            places += [Site(kind, layer) for kind in _INNER for layer in range(model.n_layers)]
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

    def taps(self, layer: int) -> Float[Tensor, "prompt position tap d_inner"]:
        """What each tap of a mixer's convolution brings."""
        return self._change(Site("conv_taps", layer))

    def _change(self, site: Site) -> Tensor:
        return widened(self.corrupt[site]) - widened(self.clean[site])

    def written(
        self, layer: int, mask: Bool[Tensor, "prompt position"]
    ) -> Float[Tensor, "prompt position d_inner"]:
        """The change of a mixer's y when the writes where `mask` is are corrupt.

        Decays and C are clean.  y is linear in the writes: this is what the corrupt writes alone
        bring, less what the clean ones do.  A scan multiplies its input by the clean step, so that
        the corrupt input comes with the ratio of the steps.
        """
        assert isinstance(self.model, Mamba)
        u, dt, B = inner(self.clean, layer)
        other_u, other_dt, other_B = inner(self.corrupt, layer)
        A, C, here = self.model.A(layer), widened(self.clean[Site("C", layer)]), mask.unsqueeze(-1)
        dt = dt.clamp_min(SMALLEST_STEP)
        corrupt = selective_scan(other_u * (other_dt / dt) * here, dt, A, other_B, C).y
        return corrupt - selective_scan(u * here, dt, A, B, C).y


def inner(run: Run, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """SSM input and dt (prompt, position, d_inner) and B (prompt, position, d_state) of a mixer."""
    u, dt, B = (run[Site(kind, layer)] for kind in ("ssm_input", "dt", "B"))
    return widened(u), dt, B
