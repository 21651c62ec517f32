"""Path patching over the mixers' protocol: readouts, states, writes and taps to the logits.

A part is a mixer, or one head of it, and goes by its readout: z.LAYER.HEAD of attention, y.LAYER
of a recurrence.  At the last position T of a part with a state:

    state[T] = step(state[T-1], inputs[T])        readout[T] = read(state[T], inputs[T])

    readout to logits   the readout of one part from the corrupt run
    state to logits     step(corrupt state[T-1], clean inputs[T])
    write to logits     what one position p writes (a state's write with its own decay, a head's key
                        or value), from the corrupt run, as the clean memory carries it to the end
    taps into a write   the same write, of local inputs (convolution taps) of which some are corrupt
    part to part        the readout of an earlier part at some positions, into what a later part
                        reads and writes there

Held: every other part's readout, or with states its state (attention has none, and holds its
readout).  Recomputed: all that a position computes from its own residual stream, and the local part
of what is between.  A linear memory carries a change of one write to the end without running again,
and a head's clean scores are kept.  Source: [Wang 2025] and its released code, with two
differences: patches are independent of each other, and a write keeps its own position's decay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from homolog.circuits.replay import Patched, PatchedRows, Replay
from homolog.errors import InputError
from homolog.models.decoder import Decoder
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.base import Branch, Context, Inputs, LinearMixer, Mixer, at_positions
from homolog.models.runs import Run
from homolog.models.sites import Site, resolve
from homolog.models.taps import NOTHING
from homolog.models.tokens import TokensLike

Hold = Literal["readout", "state"]


class Paths(Replay):
    """One batch of prompt pairs; the clean pass runs once, questions add what they alone need.

    clean, corrupt (prompt, position): token ids of the same shape.
    """

    model: Decoder

    def __init__(self, model: Decoder, clean: TokensLike, corrupt: TokensLike) -> None:
        super().__init__(model, clean, corrupt)
        self.end = self.tokens.shape[1] - 1
        with_states = [m for m in self.model.mixers() if isinstance(m, LinearMixer)]
        if with_states and self.end < 1:
            requirement = "a state must be carried into the last position"
            remedy = "Give prompts of two tokens or more."
            raise InputError("clean", tuple(self.tokens.shape), requirement, remedy)
        kept = [
            Site(kind, layer, position=-1)
            for layer in range(self.model.n_layers)
            for kind in self._kinds_at_end(layer)
        ]
        kept += [site for m in self.model.mixers() for site in self._past_sites(m)]
        kept += [site for m in with_states for site in self._carried_in(m)]
        self._clean = self.model.run(self.tokens, capture=list(dict.fromkeys(kept)), last_only=True)
        assert self._clean.logits is not None
        self.logits = self._clean.logits[:, 0]
        like = self._clean[Site("resid_pre", 0, position=-1)]
        self._context = self._context_of(torch.tensor([self.end]), like)
        self._past = {m: self._past_of(m) for m in self.model.mixers()}
        self._at_end = {
            m: m.prepared(self._at(m, *m.inputs), self._context) for m in self.model.mixers()
        }

    def _kinds_at_end(self, layer: int) -> list[str]:
        kinds = ["resid_pre"] if len(self.model.layers[layer]) == 1 else ["resid_pre", "resid_mid"]
        for branch in self.model.branches(layer):
            kinds.append(branch.out)
            if isinstance(branch, Mixer):
                kinds += [branch.readout, *branch.inputs]
        return kinds

    # --- the walk at the last position

    def _advance(self, hold: Hold, layer: int, h: Tensor) -> Tensor:
        return self._after_steps(layer, 0, h, hold)

    def _after_steps(self, layer: int, first: int, h: Tensor, hold: Hold) -> Tensor:
        """The stream after a block from that before its step `first`, at the last position."""
        for step in self.model.layers[layer][first:]:
            h = self.model.added(h, [self._held_out(branch, h, hold) for branch in step])
        return h

    def _held_out(self, branch: Branch, h: Tensor, hold: Hold) -> Tensor:
        """What a branch adds to other streams (..., prompt, d_model), its memory held."""
        if not isinstance(branch, Mixer):
            return branch(h, self._context, NOTHING)
        state = hold == "state" and isinstance(branch, LinearMixer)
        if branch.leaves_alone and not state:
            return self._at(branch, branch.out)[branch.out]
        at = branch.enter_at(h, self._context, self._past[branch])
        return branch.leave(at, self._read_held(branch, at, state))

    def _read_held(self, mixer: Mixer, at: Inputs, state: bool) -> Tensor:
        if state:
            assert isinstance(mixer, LinearMixer)
            return mixer.read(self._state(mixer), at)
        return self._at(mixer, mixer.readout)[mixer.readout]

    def _walked(self, starts: Sequence[PatchedRows], hold: Hold) -> Iterator[Patched]:
        return self.to_logits(starts, partial(self._advance, hold))

    def _start(
        self, mixer: Mixer, names: Sequence[str], heads: Sequence[int], new: Tensor, hold: Hold
    ) -> PatchedRows:
        """Rows after the mixer's block, in which it (or a head of it) reads out `new`.

        new (sender, prompt, ...): of the whole mixer, or of the head of each sender.
        """
        layer = mixer.layer
        i, step = self._step_of(mixer)
        h = self._clean[Site("resid_mid" if i else "resid_pre", layer, position=-1)]
        clean = self._at(mixer, mixer.readout, mixer.out)
        at = self._at_end[mixer]
        changed = mixer.leave_heads(at, clean[mixer.readout], heads, new, clean[mixer.out])
        outs = [changed if b is mixer else self._at(b, b.out)[b.out] for b in step]
        h = self._after_steps(layer, i + 1, self.model.added(h.expand_as(changed), outs), hold)
        return PatchedRows(layer, tuple(names), h)

    # --- senders at the last position

    def readouts_to_logits(self, senders: Sequence[Site | str] | None = None) -> Iterator[Patched]:
        """Each part's readout at the last position from the corrupt run, every other's held.

        senders   parts; all by default
        """
        chosen = self._parts(senders)
        starts = []
        corrupt = self._corrupt_readouts(chosen)
        for mixer in dict.fromkeys(mixer for mixer, _ in chosen):
            heads = [head for one, head in chosen if one is mixer]
            new = corrupt[mixer]
            new = new[:, heads].transpose(0, 1) if mixer.n_heads > 1 else new[None]
            names = [part_name(mixer, head) for head in heads]
            starts.append(self._start(mixer, names, heads, new, "readout"))
        return self._walked(starts, "readout")

    def _corrupt_readouts(self, chosen: Sequence[tuple[Mixer, int]]) -> dict[Mixer, Tensor]:
        """Readouts at the last position of the corrupt prompts, (prompt, ...).

        Where they differ from the clean ones in nothing but the last token, and every memory is a
        state, that is one step from the clean states.
        """
        mixers = list(dict.fromkeys(mixer for mixer, _ in chosen))
        linear = all(isinstance(m, LinearMixer) for m in self.model.mixers())
        if linear and torch.equal(self.tokens[:, :-1], self.corrupt[:, :-1]):
            return self._stepped_readouts()
        sites = {m: Site(m.readout, m.layer, position=-1) for m in mixers}
        run = self._corrupt_run([*sites.values()], max(m.layer for m in mixers))
        return {m: run[site] for m, site in sites.items()}

    def _stepped_readouts(self) -> dict[Mixer, Tensor]:
        step = self.model.run(self.corrupt[:, -1:], capture=["embed"], stop_after="embed")
        h, readouts = step["embed"][:, 0], {}
        for layer in range(self.model.n_layers):
            for step in self.model.layers[layer]:
                outs = []
                for branch in step:
                    if not isinstance(branch, LinearMixer):
                        outs.append(branch(h, self._context, NOTHING))
                        continue
                    at = branch.enter_at(h, self._context, self._past[branch])
                    state = branch.step(self._carried(branch), at)
                    readouts[branch] = branch.read(state, at)
                    outs.append(branch.leave(at, readouts[branch]))
                h = self.model.added(h, outs)
        return readouts

    def states_to_logits(self) -> Iterator[Patched]:
        """What each state carries into the last position from the corrupt run, the others held."""
        mixers = [m for m in self.model.mixers() if isinstance(m, LinearMixer)]
        run = self._corrupt_run([site for m in mixers for site in self._carried_in(m)])
        starts = []
        for mixer in mixers:
            at = self._at_end[mixer]
            state = mixer.step(self._carried(mixer, run), at)
            new = mixer.read(state, at)[None]
            starts.append(self._start(mixer, [state_name(mixer)], [0], new, "state"))
        return self._walked(starts, "state")

    # --- writes at earlier positions

    def writes_to_logits(
        self,
        part: Site | str,
        positions: dict[str, Tensor],
        kinds: Sequence[str] | None = None,
    ) -> Iterator[Patched]:
        """What the part takes in at each of `positions` from the corrupt run, all else held.

        positions   label: (prompt,)
        kinds       which of it, as "key"; all by default.  A query counts at the last position
        """
        mixer, head = self._part(part, "part")
        clean, corrupt = self._windows(mixer)
        writes = {}
        for label, at in positions.items():
            new = at_positions(corrupt, at.to(self.model.device))
            writes[label] = (at, {k: v for k, v in new.items() if kinds is None or k in kinds})
        return self._writes(mixer, head, clean, writes)

    def taps_to_write(
        self, part: Site | str, write_at: Tensor, inputs: dict[str, Sequence[int]]
    ) -> Iterator[Patched]:
        """The write at `write_at` (prompt,) from local inputs of which some are corrupt.

        inputs   label: how many positions before the write each corrupt input is; 0 is the write's
                 own position
        """
        mixer, head = self._part(part, "part")
        width = mixer.reach + 1
        if far := [back for before in inputs.values() for back in before if not 0 <= back < width]:
            requirement = f"the convolution reads {width} positions"
            raise InputError("inputs", far[0], requirement, f"Give 0 to {width - 1}.")
        clean, corrupt = self._windows(mixer)
        assert mixer.local is not None
        own, other = (
            local_window(inputs_[mixer.local], write_at.to(self.model.device), width)
            for inputs_ in (clean, corrupt)
        )
        back = torch.arange(width - 1, -1, -1, device=own.device)
        writes = {}
        for label, before in inputs.items():
            taken = torch.isin(back, torch.tensor(list(before), device=own.device))
            mixed = torch.where(taken.view(-1, *[1] * (own.ndim - 2)), other, own)
            writes[label] = (write_at, mixer.from_local(mixed))
        return self._writes(mixer, head, clean, writes)

    def _writes(
        self, mixer: Mixer, head: int, clean: Inputs, writes: dict[str, tuple[Tensor, Inputs]]
    ) -> Iterator[Patched]:
        """Writes as the clean memory carries them to the end."""
        reader, end = self._reader(mixer, head), self._at_end[mixer]
        if reader is not mixer:
            clean, end = (reader.narrowed(values) for values in (clean, end))
        new = []
        for at, values in writes.values():
            values = values if reader is mixer else reader.narrowed(values)
            rows = {kind: value[None] for kind, value in values.items()}
            readout = reader.reread(clean, at.to(self.model.device), rows, end)
            new.append(readout[..., 0, :] if reader is not mixer else readout)
        hold: Hold = "state" if isinstance(mixer, LinearMixer) else "readout"
        heads = [head] * len(new)
        return self._walked([self._start(mixer, list(writes), heads, torch.cat(new), hold)], hold)

    # --- part to part

    def parts_to_part(
        self,
        receiver: Site | str,
        positions: dict[str, Tensor] | None = None,
        senders: Sequence[Site | str] | None = None,
        kinds: Sequence[str] | None = None,
    ) -> Iterator[Patched]:
        """Readouts of earlier parts at some positions, as the receiver carries them to the end.

        receiver    only its readout at the last position changes what reaches the logits
        positions   label: (prompt,) or (prompt, n), where the sender is patched; by default
                    everywhere before the last
        senders     parts before the receiver; all by default
        kinds       which of what the receiver takes in changes, as "key"; all by default
        Parts between hold their readout everywhere; their local inputs and the receiver's are
        recomputed.  What the receiver takes in at the last position is clean, but for the query
        where the sender is patched there.  Labels are the sender's name, with the label of the
        positions after an @ where one is given.
        """
        mixer, head = self._part(receiver, "receiver")
        chosen = self._senders_below(mixer, head, senders)
        everywhere = {"": torch.arange(self.end).expand(len(self.tokens), self.end)}
        asked = {
            label: at if at.ndim == 2 else at[:, None]
            for label, at in (positions or everywhere).items()
        }
        between = self._between(chosen[0][0], mixer)
        alone = all(m.reach == 0 for m in between) and isinstance(mixer, Attention)
        new, names, heads = [], [], []
        windows: tuple[Run, Run] | None = None
        for label, at in asked.items():
            at = at.to(self.model.device)
            if alone and at.shape[1] == 1:
                new.append(self._through_position(mixer, head, chosen, at[:, 0], kinds))
            else:
                windows = windows or self._windows_between(mixer, chosen)
                new += [
                    self._through_window(mixer, head, one, at, kinds, windows) for one in chosen
                ]
            names += [part_name(*one) + (f"@{label}" if label else "") for one in chosen]
            heads += [head] * len(chosen)
        hold: Hold = "state" if isinstance(mixer, LinearMixer) else "readout"
        return self._walked([self._start(mixer, names, heads, torch.cat(new), hold)], hold)

    def _through_position(
        self,
        receiver: Mixer,
        head: int,
        chosen: Sequence[tuple[Mixer, int]],
        at: Tensor,
        kinds: Sequence[str] | None,
    ) -> Tensor:
        """The receiver's readout when each sender is patched at one position of each prompt.

        Nothing between reads other positions, so that one vector a prompt walks.
        """
        between = self._between(chosen[0][0], receiver)
        clean = self._clean_at(at, between)
        last_layer = max(mixer.layer for mixer, _ in chosen)
        sites = list(dict.fromkeys(Site(mixer.readout, mixer.layer) for mixer, _ in chosen))
        corrupt = _picked(self._corrupt_run(sites, last_layer), at, sites)
        context = self._context_of(at, clean[Site("resid_pre", chosen[0][0].layer)])

        def through(branch: Branch, h: Tensor) -> Tensor:
            if not isinstance(branch, Mixer):
                return branch(h, context, NOTHING)
            out = clean[Site(branch.out, branch.layer)]
            if branch.leaves_alone:
                return out
            readout = clean[Site(branch.readout, branch.layer)]
            return branch.leave(branch.enter(h, context), readout)

        rows: Tensor | None = None
        for layer, i in self._places(chosen[0][0], receiver):
            step = self.model.layers[layer][i]
            h = clean[Site("resid_mid" if i else "resid_pre", layer)]
            if rows is not None:
                rows = self.model.added(rows, [through(branch, rows) for branch in step])
            for mixer in step:
                own = [one for m, one in chosen if m is mixer]
                if not isinstance(mixer, Mixer) or not own:
                    continue
                site, out = Site(mixer.readout, layer), clean[Site(mixer.out, layer)]
                new = corrupt[site]
                new = new[:, own].transpose(0, 1) if mixer.n_heads > 1 else new[None]
                entered = mixer.enter(h, context) if not mixer.leaves_alone else {}
                entered = entered or {"value": h}
                changed = mixer.leave_heads(entered, clean[site], own, new, out)
                outs = [changed if b is mixer else clean[Site(b.out, layer)] for b in step]
                started = self.model.added(h.expand_as(changed), outs)
                rows = started if rows is None else torch.cat([rows, started])
        assert rows is not None
        reader = self._reader(receiver, head)
        values = reader.enter(rows, context)
        values = {k: v for k, v in values.items() if kinds is None or k in kinds}
        window, end = self._window(receiver, self.tokens, "clean"), self._at_end[receiver]
        if reader is not receiver:
            window, end = (reader.narrowed(inputs) for inputs in (window, end))
        readout = reader.reread(window, at, values, end)
        return readout[..., 0, :] if reader is not receiver else readout

    def _through_window(
        self,
        receiver: Mixer,
        head: int,
        sender: tuple[Mixer, int],
        at: Tensor,
        kinds: Sequence[str] | None,
        windows: tuple[Run, Run],
    ) -> Tensor:
        """The receiver's readout (1, prompt, ...) when one sender is patched at some positions.

        windows  clean and corrupt: `_windows_between`
        """
        mixer, own = sender
        clean, corrupt = windows
        layer, i = mixer.layer, self._step_of(mixer)[0]
        step = self.model.layers[layer][i]
        h = clean[self._before(mixer)]
        context = self._context_of(torch.arange(self.end + 1), h, window=True)
        old = clean[Site(mixer.readout, layer)]
        patched = torch.zeros(at.shape[0], self.end + 1, dtype=torch.bool, device=old.device)
        patched.scatter_(1, at, True)
        patched = patched.view(*patched.shape, *[1] * (old.ndim - 2))
        if mixer.n_heads > 1:
            one = torch.arange(mixer.n_heads, device=old.device) == own
            patched = patched & one[:, None]
        readout = torch.where(patched, corrupt[Site(mixer.readout, layer)], old)
        changed = mixer.leave(mixer.enter(h, context), readout)
        outs = [changed if b is mixer else clean[Site(b.out, layer)] for b in step]
        h = self.model.added(h, outs)
        for later, j in self._places(mixer, receiver)[1:]:
            outs = []
            for branch in self.model.layers[later][j]:
                if not isinstance(branch, Mixer):
                    outs.append(branch(h, context, NOTHING))
                elif branch.leaves_alone:
                    outs.append(clean[Site(branch.out, later)])
                else:
                    held = clean[Site(branch.readout, later)]
                    outs.append(branch.leave(branch.enter(h, context), held))
            h = self.model.added(h, outs)
        return self._received(receiver, head, receiver.enter(h, context), kinds)[None]

    def _windows_between(
        self, receiver: Mixer, senders: Sequence[tuple[Mixer, int]]
    ) -> tuple[Run, Run]:
        """Clean values of all positions from the first sender on, and the senders' corrupt ones."""
        mixers = list(dict.fromkeys(mixer for mixer, _ in senders))
        between = self._between(mixers[0], receiver)
        sites = [Site(kind, m.layer) for m in between for kind in (m.readout, m.out)]
        sites += [self._before(mixer) for mixer in mixers]
        sites += [Site(b.out, m.layer) for m in mixers for b in self._step_of(m)[1]]
        readouts = [Site(mixer.readout, mixer.layer) for mixer in mixers]
        stop = max(mixer.layer for mixer in mixers)
        return (
            self._window_run(self.tokens, sites, receiver.layer),
            self._window_run(self.corrupt, readouts, stop),
        )

    def _before(self, mixer: Mixer) -> Site:
        """The stream that the mixer reads."""
        return Site("resid_mid" if self._step_of(mixer)[0] else "resid_pre", mixer.layer)

    def _received(
        self, receiver: Mixer, head: int, new: Inputs, kinds: Sequence[str] | None
    ) -> Tensor:
        """Its readout at the end when all positions before it enter with `new`."""
        end = self._at_end[receiver]
        if isinstance(receiver, LinearMixer):
            before = {kind: value[:, :-1] for kind, value in new.items()}
            return receiver.read(receiver.step(receiver.memory(before), end), end)
        clean = self._window(receiver, self.tokens, "clean")
        mixed = {
            kind: torch.cat([new[kind][:, :-1], value[:, -1:]], 1)
            if kind in new and (kinds is None or kind in kinds)
            else value
            for kind, value in clean.items()
        }
        readout = receiver.read(receiver.memory(mixed), end)
        return readout[:, head] if receiver.n_heads > 1 else readout

    # --- clean and corrupt values

    def _at(self, branch: Branch, *kinds: str) -> Inputs:
        """Clean values of a branch at the last position."""
        return {kind: self._clean[Site(kind, branch.layer, position=-1)] for kind in kinds}

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
        sites = self._past_sites(mixer)
        if mixer.local is None:
            return None
        own = self._clean[Site(mixer.local, mixer.layer, position=-1)]
        missing = [torch.zeros_like(own)] * (mixer.reach - len(sites))
        return torch.stack([*missing, *(self._clean[site] for site in sites)], 1)

    def _context_of(self, at: Tensor, like: Tensor, window: bool = False) -> Context:
        at = at.to(like.device)
        return self.model.context_at(at[None] if window else at, self.end + 1, like)

    def _corrupt_run(self, sites: Sequence[Site], stop: int | None = None) -> Run:
        """The corrupt prompts, through the blocks up to `stop` (all by default)."""
        stop = self.model.n_layers - 1 if stop is None else stop
        return self.model.run(self.corrupt, capture=sites, stop_after=f"resid.{stop}")

    def _window_run(self, tokens: Tensor, sites: Sequence[Site], stop: int) -> Run:
        return self.model.run(
            tokens, capture=list(dict.fromkeys(sites)), stop_after=f"resid.{stop}"
        )

    def _windows(self, mixer: Mixer) -> tuple[Inputs, Inputs]:
        """What every position enters with, of clean and corrupt prompts."""
        clean = self._window(mixer, self.tokens, "clean")
        return clean, self._window(mixer, self.corrupt, "corrupt")

    def _window(self, mixer: Mixer, tokens: Tensor, name: str) -> Inputs:
        """What every position enters with.

        Kept for the next question about that mixer, those of one mixer at a time.
        """
        memo = self._of_clean if name == "clean" else self._of_corrupt
        if memo.get("mixer") is not mixer:
            sites = [Site(kind, mixer.layer) for kind in mixer.inputs]
            run = self._window_run(tokens, sites, mixer.layer)
            context = self._context_of(torch.arange(self.end + 1), run[sites[0]], window=True)
            values = {site.kind: run[site] for site in sites}
            memo["mixer"], memo["window"] = mixer, mixer.prepared(values, context)
        return memo["window"]

    def _clean_at(self, at: Tensor, between: Sequence[Mixer]) -> dict[Site, Tensor]:
        """Clean values at one position of each prompt, of the blocks of these mixers."""
        layers = range(between[0].layer, between[-1].layer + 1)
        key = ("at", tuple(at.tolist()), layers)
        if key not in self._of_clean:
            kinds = {n: self._kinds_between(n) for n in layers}
            sites = [Site(kind, layer) for layer in layers for kind in kinds[layer]]
            run = self._window_run(self.tokens, sites, layers[-1])
            self._of_clean[key] = _picked(run, at, sites)
        return self._of_clean[key]

    def _kinds_between(self, layer: int) -> list[str]:
        kinds = ["resid_pre"] if len(self.model.layers[layer]) == 1 else ["resid_pre", "resid_mid"]
        for branch in self.model.branches(layer):
            kinds += [branch.out, branch.readout] if isinstance(branch, Mixer) else [branch.out]
        return kinds

    # --- parts

    def _step_of(self, mixer: Mixer) -> tuple[int, Sequence[Branch]]:
        return next(
            (i, step) for i, step in enumerate(self.model.layers[mixer.layer]) if mixer in step
        )

    def _places(self, first: Mixer, receiver: Mixer) -> list[tuple[int, int]]:
        """The steps from that of `first` to that before the receiver's, as (layer, step)."""
        start, stop = ((m.layer, self._step_of(m)[0]) for m in (first, receiver))
        every = [
            (n, i) for n in range(self.model.n_layers) for i in range(len(self.model.layers[n]))
        ]
        return [place for place in every if start <= place < stop]

    def _between(self, first: Mixer, receiver: Mixer) -> list[Mixer]:
        """The mixers from the step of `first` to that before the receiver's, in order."""
        return [
            branch
            for layer, i in self._places(first, receiver)
            for branch in self.model.layers[layer][i]
            if isinstance(branch, Mixer)
        ]

    def _reader(self, mixer: Mixer, head: int) -> Any:
        return mixer.of_head(head) if isinstance(mixer, Attention) else mixer

    def _part(self, part: Site | str, field: str) -> tuple[Mixer, int]:
        """The mixer and head of a part's name, z.LAYER.HEAD or y.LAYER."""
        site = resolve(part, self.model.sites(), self.model.name)
        found = [
            (mixer, head)
            for mixer, head in self.parts()
            if str(site) == part_name(mixer, head)
            or (isinstance(mixer, LinearMixer) and str(site) == state_name(mixer))
        ]
        if not found:
            requirement = "it must be a part that reads other positions, by its readout"
            known = [part_name(*one) for one in self.parts()]
            remedy = f"They are {known[0]} to {known[-1]}."
            raise InputError(field, str(site), requirement, remedy)
        return found[0]

    def parts(self) -> list[tuple[Mixer, int]]:
        """All mixers and heads, in the order of the pass."""
        return [(mixer, head) for mixer in self.model.mixers() for head in range(mixer.n_heads)]

    def _parts(self, senders: Sequence[Site | str] | None) -> list[tuple[Mixer, int]]:
        if senders is None:
            return self.parts()
        order = [part_name(*one) for one in self.parts()]
        chosen = [self._part(sender, "sender") for sender in senders]
        return sorted(chosen, key=lambda one: order.index(part_name(*one)))

    def _senders_below(
        self, receiver: Mixer, head: int, senders: Sequence[Site | str] | None
    ) -> list[tuple[Mixer, int]]:
        place = (receiver.layer, self._step_of(receiver)[0])
        below = [one for one in self.parts() if (one[0].layer, self._step_of(one[0])[0]) < place]
        if not below:
            requirement = "parts before it must exist"
            name = part_name(receiver, head)
            raise InputError("receiver", name, requirement, "Name a part above the first block.")
        chosen = below if senders is None else self._parts(senders)
        if not chosen or any(one not in below for one in chosen):
            wrong = next((part_name(*one) for one in chosen if one not in below), senders)
            known = f"{part_name(*below[0])} to {part_name(*below[-1])}"
            requirement = f"it must be a part before {part_name(receiver, head)}"
            raise InputError("sender", wrong, requirement, f"They are {known}.")
        return chosen


def part_name(mixer: Mixer, head: int = 0) -> str:
    """Its readout's name: z.2.3, or y.2 where nothing is read by head."""
    name = f"{mixer.readout}.{mixer.layer}"
    return f"{name}.{head}" if mixer.n_heads > 1 else name


def state_name(mixer: LinearMixer) -> str:
    """The name of its state: state.2."""
    return f"{mixer.state}.{mixer.layer}"


def local_window(values: Tensor, at: Tensor, width: int) -> Tensor:
    """The `width` values up to each prompt's position, (prompt, width, ...), zeros before 0."""
    each = torch.arange(len(at), device=values.device)
    places = at[:, None] - torch.arange(width - 1, -1, -1, device=values.device)
    inside = (places >= 0).view(*places.shape, *[1] * (values.ndim - 2))
    return torch.where(inside, values[each[:, None], places.clamp_min(0)], 0)


def _picked(run: Run, at: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """Values of a run at each prompt's position."""
    each = torch.arange(len(at), device=at.device)
    return {site: run[site][each, at] for site in sites}
