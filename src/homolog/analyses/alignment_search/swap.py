"""Parts of one model's residual stream put in the place of parts of another's.

x (d_source) and h (d_target) are the residual streams of the two models at the same token, with
means mean_x and mean_h over training text.  With orthogonal Q_x (d_source, d_source) and Q_h
(d_target, d_target), of which the first k columns count, and one scale s,

    z     = s Q_x[:, :k]' (x - mean_x)                       what the source supplies
    w     = Q_h[:, :k]' (h - mean_h)                         what the target has there
    swapped  h' = h + Q_h[:, :k] (z - w)                     the rest of the stream is the target's
    ablated  h' = h - Q_h[:, :k] w                           the same part at its mean
    alone    h' = mean_h + Q_h[:, :k] z                      the rest at its mean too

The target goes on from h' at every token that is not special.  k is at most the smaller width.

The start is the orthogonal Procrustes solution of the residuals: U S V' of the singular value
decomposition of their cross-scatter gives Q_x = U, Q_h = V and s = tr(S) / tr(Q' S_xx Q) with
Q = U V' [Schoenemann 1966]; columns stand in the order of what they share.  Training turns both by
Cayley maps and changes s, to minimise the KL divergence of the target's own predictions from those
of `alone`, each window with a k of its own drawn from the powers of two [nested dropout, Rippel
2014]: so every first k columns are trained together, and in their order.  It is `alone` that is
minimised, for `swapped` would be smallest for a part of the stream that does nothing.

Grant et al., "Model Alignment Search", arXiv 2501.06164, 2025.  Rippel, Gelbart, Adams, "Learning
ordered representations with nested dropout", ICML 2014.  Schoenemann, "A generalized solution of
the orthogonal Procrustes problem", Psychometrika 1966.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

from homolog.corpus import TokenWindows
from homolog.errors import InputError
from homolog.matching.spaces import SpaceMoments
from homolog.models import LanguageModel, Site
from homolog.record.layers import STREAM_AFTER
from homolog.threads import library_threads

Stream = Float[torch.Tensor, "window position d_target"]
SourceStream = Float[torch.Tensor, "window position d_source"]
Mask = Float[torch.Tensor, "window 1 direction"]


@dataclass(frozen=True, eq=False)
class Swap:
    """The maps of both streams to the directions that they share, float32.

    turn_x (d_source, d_source), turn_h (d_target, d_target): orthogonal, a direction a column.
    """

    turn_x: Float[torch.Tensor, "d_source d_source"]
    turn_h: Float[torch.Tensor, "d_target d_target"]
    mean_x: Float[torch.Tensor, " d_source"]
    mean_h: Float[torch.Tensor, " d_target"]
    scale: torch.Tensor

    @property
    def n_directions(self) -> int:
        """The most that can be swapped: the smaller width."""
        return min(len(self.turn_x), len(self.turn_h))

    def first(self, k: Int[torch.Tensor, " window"]) -> Mask:
        """1 at the first k directions of each window, else 0."""
        return (torch.arange(self.n_directions) < k[:, None, None]).float().to(self.mean_h.device)

    def swapped(self, h: Stream, x: SourceStream, kept: Mask) -> Stream:
        """The target's stream with the source's part in the kept directions."""
        return h + self._back((self._supplied(x) - self._own(h)) * kept)

    def ablated(self, h: Stream, kept: Mask) -> Stream:
        """The target's stream with these directions at their mean."""
        return h - self._back(self._own(h) * kept)

    def alone(self, x: SourceStream, kept: Mask) -> Stream:
        """The source's part in the kept directions, all else at its mean."""
        return self.mean_h + self._back(self._supplied(x) * kept)

    def _supplied(self, x: SourceStream) -> torch.Tensor:
        return self.scale * ((x - self.mean_x) @ self.turn_x[:, : self.n_directions])

    def _own(self, h: Stream) -> torch.Tensor:
        return (h - self.mean_h) @ self.turn_h[:, : self.n_directions]

    def _back(self, z: torch.Tensor) -> Stream:
        return z @ self.turn_h[:, : self.n_directions].T


@dataclass(frozen=True, eq=False)
class OwnPass:
    """What the target does with some windows by itself: its stream and log p of the next token."""

    h: Stream
    before: Stream | None
    embedded: Stream | None
    logs: Float[torch.Tensor, "window position vocabulary"]
    kept: Bool[torch.Tensor, "window position"]
    """Tokens that are not special: only there the stream is changed."""

    @property
    def counted(self) -> Bool[torch.Tensor, "window position"]:
        """Tokens on which predictions are compared: neither they nor their next one is special."""
        return self.kept & nn.functional.pad(self.kept[:, 1:], (0, 1))

    def divergence(self, logs: torch.Tensor) -> Float[torch.Tensor, " counted"]:
        """KL divergence of own predictions from others, in nats, at the counted tokens."""
        own = self.logs[self.counted]
        return (own.exp() * (own - logs[self.counted])).sum(-1)


@dataclass(frozen=True)
class Target:
    """A model whose stream after a block, or what else its dictionaries read, is changed."""

    model: LanguageModel
    layer: int

    @torch.no_grad()
    def own(self, windows: TokenWindows) -> OwnPass:
        """A pass over windows, as they are."""
        model, site = self.model, self.model.own_site(self.layer)
        inside = model.place != STREAM_AFTER
        before = Site("resid_pre", self.layer) if inside else None
        beside = model.reads_embeddings_after(self.layer - inside)
        sites = [site, *([before] if before else []), *([Site("embed")] if beside else [])]
        run = model.run(torch.from_numpy(windows.tokens).long(), capture=sites)
        assert run.logits is not None
        return OwnPass(
            run[site],
            run[before] if before else None,
            run[Site("embed")] if beside else None,
            run.logits.float().log_softmax(-1),
            torch.from_numpy(windows.mask).to(model.device),
        )

    def logs(self, own: OwnPass, h: Stream) -> torch.Tensor:
        """log p of the next token where `h` stands in the own stream's place, float32."""
        changed = torch.where(own.kept[..., None], h.to(own.h.dtype), own.h)
        layer, stream, edits = self.model.with_own(self.layer, own.before, changed)
        logits = self.model.continue_from(layer, stream, edits, embedded=own.embedded)
        return logits.float().log_softmax(-1)


def dimensions(n_directions: int) -> list[int]:
    """The powers of two below n_directions, and n_directions."""
    return [2**i for i in range(math.ceil(math.log2(n_directions)))] + [n_directions]


def procrustes(
    x: Float[torch.Tensor, "token d_source"], h: Float[torch.Tensor, "token d_target"]
) -> Swap:
    """The start, from residuals of the same tokens.  InputError: x is constant."""
    moments = SpaceMoments([x.shape[1]], [h.shape[1]])
    moments.add([x], [h])
    arrays = {name: torch.from_numpy(array) for name, array in moments.arrays().items()}
    s_xx, s_xh = arrays["scatter.0.0"], arrays["scatter.0.1"]
    if not float(s_xx.trace()) > 0:
        needed = "directions are found in residuals that vary"
        raise InputError("source residuals", f"{len(x)} tokens", needed, "Give more tokens.")
    with library_threads(1, "torch", "blas"):  # the last bits would follow their number
        u, shared, v = torch.linalg.svd(s_xh, full_matrices=True)
        kept = u[:, : len(shared)]
        scale = shared.sum() / ((s_xx @ kept) * kept).sum()
    parts = (u, v.T.contiguous(), arrays["mean.0"], arrays["mean.1"], scale)
    return Swap(*(part.float().to(x.device) for part in parts))


class _Turning(nn.Module):
    """A swap on its way: both bases and the scale, from where they start."""

    def __init__(self, start: Swap) -> None:
        super().__init__()
        self.start = start
        self.turn_x, self.turn_h = nn.Parameter(start.turn_x), nn.Parameter(start.turn_h)
        self.log_scale = nn.Parameter(torch.zeros_like(start.scale))
        for name in ("turn_x", "turn_h"):
            orthogonal(self, name, orthogonal_map="cayley")

    def forward(self) -> Swap:
        scale = self.start.scale * self.log_scale.exp()
        return Swap(self.turn_x, self.turn_h, self.start.mean_x, self.start.mean_h, scale)


def train_swap(
    start: Swap,
    target: Target,
    windows: TokenWindows,
    x: SourceStream,
    *,
    steps: int,
    batch: int,
    lr: float,
    rng: np.random.Generator,
) -> Swap:
    """The swap whose directions, alone, keep the target's predictions best.

    x: the source's stream in these windows.  batch: windows of a step.  lr: of Adam, in radians for
    each pair of directions; it falls to zero linearly.
    """
    turning = _Turning(start)
    optimizer = torch.optim.Adam(turning.parameters(), lr=lr)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=max(1, steps))
    choices = np.array(dimensions(start.n_directions))
    for _ in range(steps):
        chosen = rng.choice(len(windows), min(batch, len(windows)), replace=False)
        own, swap = target.own(windows[chosen]), turning()
        kept = swap.first(torch.from_numpy(rng.choice(choices, len(chosen))))
        h = swap.alone(x[torch.from_numpy(chosen)].to(own.h.device), kept)
        loss = own.divergence(target.logs(own, h)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    with torch.no_grad():
        end = turning()
    return Swap(*(part.detach() for part in vars(end).values()))
