"""Clean values of some prompts, and streams that pass through parts whose memory is held.

Held is what a part reads out of its memory, or the state of a recurrence, at its clean value.
Recomputed is all that a position computes from its own residual stream: norms, MLPs, gates, skips,
the current tap of a local part, and where whole windows pass, the local part between positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from homolog.circuits.replay import Patched, PatchedRows, Replay
from homolog.errors import InputError
from homolog.models.decoder import Decoder, Flow
from homolog.models.mixers.base import Branch, Context, Inputs, Mixer
from homolog.models.mixers.linear_mixer import LinearMixer
from homolog.models.runs import Run
from homolog.models.sites import Site
from homolog.models.taps import NOTHING
from homolog.models.tokens import TokensLike

Hold = Literal["readout", "state"]
Clean = Mapping[Site, Tensor] | Run
"""Clean values of whole sites, at some positions."""


class Held(Replay):
    """One batch of prompt pairs: the clean pass, and walks in which memories are held.

    clean, corrupt (prompt, position): token ids of the same shape.
    """

    model: Decoder

    def __init__(self, model: Decoder, clean: TokensLike, corrupt: TokensLike) -> None:
        super().__init__(model, clean, corrupt)
        self.end = self.tokens.shape[1] - 1
        self.recurrences = [m for m in self.model.mixers() if isinstance(m, LinearMixer)]
        if self.recurrences and self.end < 1:
            requirement = "a state must be carried into the last position"
            remedy = "Give prompts of two tokens or more."
            raise InputError("clean", tuple(self.tokens.shape), requirement, remedy)
        every = [site for n in range(self.model.n_layers) for site in self._sites(n, inputs=True)]
        kept = [Site("embed"), *(replace(site, position=-1) for site in every)]
        kept += [site for m in self.model.mixers() for site in self._past_sites(m)]
        kept += [site for m in self.recurrences for site in self._carried_in(m)]
        self._clean = self._captured(self.tokens, kept, last_only=True)
        assert self._clean.logits is not None
        self.logits = self._clean.logits[:, 0]
        self._context = self._context_of(torch.tensor([self.end]))
        self._past = {m: self._past_of(m) for m in self.model.mixers()}
        self._at_end = {
            m: m.prepared({kind: self._last(m, kind) for kind in m.inputs}, self._context)
            for m in self.model.mixers()
        }

    # --- at the last position

    def _block(self, hold: Hold, layer: int, h: Tensor) -> Tensor:
        """The stream after a block from that before it, at the last position."""
        return self._after_steps(hold, layer, Flow(h), 0)

    def _after_steps(self, hold: Hold, layer: int, flow: Flow, first: int) -> Tensor:
        """The stream after a block from what its step `first` reads, at the last position."""
        for step in self.model.layers[layer][first:]:
            read = flow.read_by(step)
            flow = self.model.after(step, flow, [self._held_out(b, read, hold) for b in step])
        return flow.h

    def _held_out(self, branch: Branch, h: Tensor, hold: Hold) -> Tensor:
        """What a branch adds to other streams (..., prompt, d_model), its memory held."""
        if not isinstance(branch, Mixer):
            return branch(h, self._context, NOTHING)
        if hold == "state" and isinstance(branch, LinearMixer):
            at = branch.enter_at(h, self._context, self._past[branch])
            return branch.leave(at, branch.read(self._state(branch), at))
        if branch.leaves_alone:
            return self._last(branch, branch.out)
        at = branch.enter_at(h, self._context, self._past[branch])
        return branch.leave(at, self._last(branch, branch.readout))

    def _walked(self, starts: Sequence[PatchedRows], hold: Hold) -> Iterator[Patched]:
        return self.to_logits(starts, partial(self._block, hold))

    def _start(
        self, mixer: Mixer, names: Sequence[str], heads: Sequence[int], new: Tensor, hold: Hold
    ) -> PatchedRows:
        """Rows after the mixer's block, in which it (or a head of it) reads out `new`.

        new (sender, prompt, ...): of the whole mixer, or of the head of each sender.
        """
        readout, out = (self._last(mixer, kind) for kind in (mixer.readout, mixer.out))
        changed = mixer.leave_heads(self._at_end[mixer], readout, heads, new, out)
        flow = self._stepped(mixer, changed, lambda s: self._clean[replace(s, position=-1)])
        layer, i = self.model.place_of(mixer)
        return PatchedRows(layer, tuple(names), self._after_steps(hold, layer, flow, i + 1))

    def _stepped(self, mixer: Mixer, changed: Tensor, clean: Callable[[Site], Tensor]) -> Flow:
        """What the mixer's step hands on, in which it gives `changed` and the others as ever."""
        step, before = self.model.step_of(mixer), self._before(mixer, clean)
        outs = [changed if b is mixer else clean(Site(b.out, b.layer)) for b in step]
        return self.model.after(step, before._replace(h=before.h.expand_as(changed)), outs)

    def _before(self, branch: Branch, clean: Callable[[Site], Tensor]) -> Flow:
        """What the step of a branch is handed, by the clean values of sites."""
        return Flow(*(clean(site) for site in self.model.flow_sites(branch)))

    # --- at other positions

    def _through(self, place: tuple[int, int], flow: Flow, context: Context, clean: Clean) -> Flow:
        """What a step hands on, the readouts of its mixers held.

        flow is of one position of each prompt where no mixer of the step reads others by its local
        part, or else of whole windows.
        """
        layer, i = place
        step, outs = self.model.layers[layer][i], []
        h = flow.read_by(step)
        for branch in step:
            if not isinstance(branch, Mixer):
                outs.append(branch(h, context, NOTHING))
            elif branch.leaves_alone:
                outs.append(clean[Site(branch.out, layer)])
            else:
                held = clean[Site(branch.readout, layer)]
                outs.append(branch.leave(branch.enter(h, context), held))
        return self.model.after(step, flow, outs)

    # --- values

    def _sites(self, layer: int, inputs: bool = False) -> list[Site]:
        """Streams before steps, outputs, readouts; and, if asked, what positions enter with."""
        steps = range(len(self.model.layers[layer]))
        kinds = [self.model.stream_kind(layer, i) for i in steps]
        for branch in self.model.branches(layer):
            kinds.append(branch.out)
            if isinstance(branch, Mixer):
                kinds += [branch.readout, *(branch.inputs if inputs else ())]
        return [Site(kind, layer) for kind in kinds]

    def _last(self, branch: Branch, kind: str) -> Tensor:
        """A clean value of a branch at the last position."""
        return self._clean[Site(kind, branch.layer, position=-1)]

    def _carried_in(self, mixer: LinearMixer) -> list[Site]:
        kinds = mixer.state_kinds(self.end - 1)
        return [Site(kind, mixer.layer, position=position) for kind, position in kinds]

    def _carried(self, mixer: LinearMixer, run: Run | None = None) -> Tensor:
        """The state before the last position, of the clean prompts if no run is given."""
        run = self._clean if run is None else run
        return mixer.state_of([run[site] for site in self._carried_in(mixer)])

    def _state(self, mixer: LinearMixer) -> Tensor:
        """The clean state at the last position."""
        return mixer.step(self._carried(mixer), self._at_end[mixer])

    def _past_sites(self, mixer: Mixer) -> list[Site]:
        if mixer.local is None:
            return []
        window = range(max(0, self.end - mixer.reach), self.end)
        return [Site(mixer.local, mixer.layer, position=p) for p in window]

    def _past_of(self, mixer: Mixer) -> Tensor | None:
        """What the local part reads at the last position of those before, (prompt, reach, ...)."""
        if mixer.local is None:
            return None
        sites, own = self._past_sites(mixer), self._last(mixer, mixer.local)
        if not mixer.reach:
            return own.new_empty(len(own), 0, *own.shape[1:])
        missing = [torch.zeros_like(own)] * (mixer.reach - len(sites))
        return torch.stack([*missing, *(self._clean[site] for site in sites)], 1)

    def _context_of(self, at: Tensor) -> Context:
        """Of one position of each prompt (prompt,), or those of whole windows (1, position)."""
        embedded = self._clean[Site("embed")]
        at, prompts = at.to(embedded.device), torch.arange(len(embedded), device=embedded.device)
        read = embedded[prompts if at.ndim == 1 else prompts[:, None], at]
        return self.model.context_at(at, self.end + 1, read)

    def _everywhere(self) -> Tensor:
        """All positions of a window, (1, position)."""
        return torch.arange(self.end + 1)[None]

    def _captured(
        self, tokens: Tensor, sites: Sequence[Site], stop: int | None = None, **options: Any
    ) -> Run:
        """A run that captures these; where `stop` is given, of the blocks from the first of the
        sites up to it.  The tokens are then `self.tokens` or `self.corrupt`.
        """
        capture = list(dict.fromkeys(sites))
        if stop is None:
            return self.model.run(tokens, capture=capture, **options)
        first = min(-1 if site.layer is None else site.layer for site in sites)
        h, embedded = self._stream_before(first, tokens)
        return self.model.run_blocks(first, stop, h, capture, embedded=embedded)

    def _stream_before(self, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The stream before a block, and what block 0 reads, (prompt, position, d_model).

        All streams are kept as far as they were asked for: every block is passed once.
        """
        memo = self._of_clean if tokens is self.tokens else self._of_corrupt
        if "streams" not in memo:
            memo["streams"] = [self.model.run(tokens, ["embed"], stop_after="embed")["embed"]]
        known = memo["streams"]
        if (first := len(known) - 1) < layer:
            sites = [Site("resid", n) for n in range(first, layer)]
            run = self.model.run_blocks(first, layer - 1, known[-1], sites, embedded=known[0])
            known += [run[site] for site in sites]
        return known[layer], known[0]

    def _window(self, mixer: Mixer, tokens: Tensor) -> Inputs:
        """What every position enters with, of `self.tokens` or `self.corrupt`.

        Kept for the next question about that mixer, those of one mixer at a time.
        """
        memo = self._of_clean if tokens is self.tokens else self._of_corrupt
        if memo.get("mixer") is not mixer:
            sites = [Site(kind, mixer.layer) for kind in mixer.inputs]
            run = self._captured(tokens, sites, mixer.layer)
            values = {site.kind: run[site] for site in sites}
            context = self._context_of(self._everywhere())
            memo["mixer"], memo["window"] = mixer, mixer.prepared(values, context)
        return memo["window"]
