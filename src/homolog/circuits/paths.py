"""Path patching over the mixers' protocol: readouts, states, writes and taps to the logits.

A part is a mixer, or one head of it (`parts`).  At the last position T of a part with a state:

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
from typing import cast

import torch
from torch import Tensor

from homolog.circuits.held import Clean, Held, Hold
from homolog.circuits.parts import (
    Part,
    by_sender,
    heads_by_mixer,
    narrowed,
    part_name,
    parts_of,
    state_name,
)
from homolog.circuits.replay import Patched
from homolog.errors import InputError
from homolog.models.decoder import Flow
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.base import Context, Inputs, Mixer, at_positions
from homolog.models.mixers.linear_mixer import LinearMixer
from homolog.models.mixers.one_head import OneHead
from homolog.models.runs import Run
from homolog.models.sites import Site, resolve
from homolog.models.taps import NOTHING

Positions = dict[str, Tensor]
"""By label, positions of each prompt, (prompt,) or (prompt, n)."""


class Paths(Held):
    """One batch of prompt pairs; the clean pass runs once, questions add what they alone need.

    clean, corrupt (prompt, position): token ids of the same shape.
    """

    # --- senders at the last position

    def readouts_to_logits(self, senders: Sequence[Site | str] | None = None) -> Iterator[Patched]:
        """Each part's readout at the last position from the corrupt run, every other's held.

        senders   parts; all by default
        """
        by_mixer = heads_by_mixer(self._parts(senders))
        corrupt = self._corrupt_readouts(list(by_mixer))
        starts = []
        for mixer, heads in by_mixer.items():
            names = [part_name(mixer, head) for head in heads]
            new = by_sender(mixer, corrupt[mixer], heads)
            starts.append(self._start(mixer, names, heads, new, "readout"))
        return self._walked(starts, "readout")

    def _corrupt_readouts(self, mixers: Sequence[Mixer]) -> dict[Mixer, Tensor]:
        """Readouts at the last position of the corrupt prompts, (prompt, ...).

        Where they differ from the clean ones in nothing but the last token, and every memory is a
        state, that is one step from the clean states.
        """
        linear = len(self.recurrences) == len(self.model.mixers())
        if linear and torch.equal(self.tokens[:, :-1], self.corrupt[:, :-1]):
            return self._stepped_readouts()
        sites = {m: Site(m.readout, m.layer, position=-1) for m in mixers}
        run = self._captured(self.corrupt, [*sites.values()], max(m.layer for m in mixers))
        return {m: run[site] for m, site in sites.items()}

    def _stepped_readouts(self) -> dict[Mixer, Tensor]:
        last = self.model.run(self.corrupt[:, -1:], capture=["embed"], stop_after="embed")
        flow, readouts = Flow(last["embed"][:, 0]), {}
        for steps in self.model.layers:
            for step in steps:
                h, outs = flow.read_by(step), []
                for branch in step:
                    if not isinstance(branch, LinearMixer):
                        outs.append(branch(h, self._context, NOTHING))
                        continue
                    at = branch.enter_at(h, self._context, self._past[branch])
                    readouts[branch] = branch.read(branch.step(self._carried(branch), at), at)
                    outs.append(branch.leave(at, readouts[branch]))
                flow = self.model.after(step, flow, outs)
        return readouts

    def states_to_logits(self) -> Iterator[Patched]:
        """What each state carries into the last position from the corrupt run, the others held."""
        carried = [site for m in self.recurrences for site in self._carried_in(m)]
        run = self._captured(self.corrupt, carried, self.model.n_layers - 1)
        starts = []
        for mixer in self.recurrences:
            at = self._at_end[mixer]
            new = mixer.read(mixer.step(self._carried(mixer, run), at), at)[None]
            starts.append(self._start(mixer, [state_name(mixer)], [0], new, "state"))
        return self._walked(starts, "state")

    # --- writes at earlier positions

    def writes_to_logits(
        self, part: Site | str, positions: Positions, kinds: Sequence[str] | None = None
    ) -> Iterator[Patched]:
        """What the part takes in at each of `positions` from the corrupt run, all else held.

        positions   label: (prompt,)
        kinds       which of it, as "key"; all by default.  A query counts at the last position
        """
        one = mixer, _ = self._part(part, "part")
        corrupt, writes = self._window(mixer, self.corrupt), {}
        for label, at in positions.items():
            at = at.to(self.model.device)
            writes[label] = at, chosen(at_positions(corrupt, at), kinds)
        return self._writes(one, writes)

    def taps_to_write(
        self, part: Site | str, write_at: Tensor, inputs: dict[str, Sequence[int]]
    ) -> Iterator[Patched]:
        """The write at `write_at` (prompt,) from local inputs of which some are corrupt.

        inputs   label: how many positions before the write each corrupt input is; 0 is the write's
                 own position
        """
        one = mixer, _ = self._part(part, "part")
        width, at = mixer.reach + 1, write_at.to(self.model.device)
        if far := [back for before in inputs.values() for back in before if not 0 <= back < width]:
            requirement = f"the convolution reads {width} positions"
            raise InputError("inputs", far[0], requirement, f"Give 0 to {width - 1}.")
        assert mixer.local is not None
        own, other = (
            local_window(self._window(mixer, tokens)[mixer.local], at, width)
            for tokens in (self.tokens, self.corrupt)
        )
        back = torch.arange(width - 1, -1, -1, device=own.device)
        writes = {}
        for label, before in inputs.items():
            taken = torch.isin(back, torch.tensor(list(before), device=own.device))
            mixed = torch.where(taken.view(-1, *[1] * (own.ndim - 2)), other, own)
            writes[label] = at, mixer.from_local(mixed)
        return self._writes(one, writes)

    def _writes(self, part: Part, writes: dict[str, tuple[Tensor, Inputs]]) -> Iterator[Patched]:
        """Writes as the clean memory carries them to the end."""
        new = []
        for at, values in writes.values():
            rows = {kind: value[None] for kind, value in narrowed(part, values).items()}
            new.append(self._reread(part, at, rows))
        return self._received(part, list(writes), new)

    def _reread(self, part: Part, at: Tensor, rows: Inputs) -> Tensor:
        """The part's readout at the end, (sender, prompt, ...), when it takes in `rows` at `at`.

        rows   (sender, prompt, ...), of its head alone where it has heads
        """
        mixer, head = part
        window = narrowed(part, self._window(mixer, self.tokens))
        end = narrowed(part, self._at_end[mixer])
        if not isinstance(mixer, Attention):
            return mixer.reread(window, at, rows, end)
        return OneHead(mixer, head).reread(window, at, rows, end)[..., 0, :]

    def _received(
        self, part: Part, names: Sequence[str], new: Sequence[Tensor]
    ) -> Iterator[Patched]:
        """Readouts of the part at the end, (sender, prompt, ...) each, walked to the logits."""
        mixer, head = part
        hold: Hold = "state" if isinstance(mixer, LinearMixer) else "readout"
        start = self._start(mixer, names, [head] * len(names), torch.cat(list(new)), hold)
        return self._walked([start], hold)

    # --- part to part

    def parts_to_part(
        self,
        receiver: Site | str,
        positions: Positions | None = None,
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
        part = mixer, _ = self._part(receiver, "receiver")
        some = self._senders_below(part, senders)
        everywhere = {"": torch.arange(self.end).expand(len(self.tokens), self.end)}
        between = self._between(some[0][0], mixer)
        local = any(m.reach or m.aside for m in between)
        alone = isinstance(mixer, Attention) and not local
        new, names = [], []
        windows: tuple[Run, Run] | None = None
        for label, at in (positions or everywhere).items():
            at = at.to(self.model.device)
            at = at if at.ndim == 2 else at[:, None]
            if alone and at.shape[1] == 1:
                new.append(self._by_position(part, some, at[:, 0], kinds))
            else:
                windows = windows or self._windows_between(mixer, some)
                new += [self._by_window(part, one, at, kinds, windows) for one in some]
            names += [part_name(*one) + (f"@{label}" if label else "") for one in some]
        return self._received(part, names, new)

    def _by_position(
        self, receiver: Part, senders: Sequence[Part], at: Tensor, kinds: Sequence[str] | None
    ) -> Tensor:
        """The receiver's readout when each sender is patched at one position of each prompt.

        Nothing between reads other positions or stands aside, so that one vector a prompt walks.
        """
        mixer, head = receiver
        by_mixer = heads_by_mixer(senders)
        clean = self._clean_at(at, self._between(senders[0][0], mixer))
        sites = [Site(m.readout, m.layer) for m in by_mixer]
        run = self._captured(self.corrupt, sites, max(m.layer for m in by_mixer))
        corrupt = picked(run, at, sites)
        context, rows = self._context_of(at), None
        for place in self._places(senders[0][0], mixer):
            if rows is not None:
                rows = self._through(place, rows, context, clean)
            for sender in (m for m in by_mixer if self.model.place_of(m) == place):
                heads, site = by_mixer[sender], Site(sender.readout, sender.layer)
                entered = {} if sender.leaves_alone else self._entered(sender, context, clean)
                new = by_sender(sender, corrupt[site], heads)
                out = clean[Site(sender.out, sender.layer)]
                changed = sender.leave_heads(entered, clean[site], heads, new, out)
                started = self._stepped(sender, changed, clean.__getitem__)
                rows = started if rows is None else Flow(torch.cat([rows.h, started.h]))
        assert rows is not None
        read = rows.read_by(self.model.step_of(mixer))
        values = OneHead(cast("Attention", mixer), head).enter(read, context)
        return self._reread(receiver, at, chosen(values, kinds))

    def _by_window(
        self,
        receiver: Part,
        sender: Part,
        at: Tensor,
        kinds: Sequence[str] | None,
        windows: tuple[Run, Run],
    ) -> Tensor:
        """The receiver's readout (1, prompt, ...) when one sender is patched at some positions.

        windows  clean and corrupt: `_windows_between`
        """
        (mixer, head), (clean, corrupt) = sender, windows
        context = self._context_of(self._everywhere())
        site = Site(mixer.readout, mixer.layer)
        patched = torch.zeros(len(at), self.end + 1, dtype=torch.bool, device=at.device)
        patched.scatter_(1, at, True)
        patched = patched.view(*patched.shape, *[1] * (clean[site].ndim - 2))
        if mixer.n_heads > 1:
            one = torch.arange(mixer.n_heads, device=at.device) == head
            patched = patched & one[:, None]
        readout = torch.where(patched, corrupt[site], clean[site])
        left = mixer.leave(self._entered(mixer, context, clean), readout)
        flow = self._stepped(mixer, left, clean.__getitem__)
        for place in self._places(mixer, receiver[0])[1:]:
            flow = self._through(place, flow, context, clean)
        read = flow.read_by(self.model.step_of(receiver[0]))
        return self._readout_of(receiver, receiver[0].enter(read, context), kinds)[None]

    def _entered(self, mixer: Mixer, context: Context, clean: Clean) -> Inputs:
        """What the clean positions of a mixer enter with."""
        before = self._before(mixer, clean.__getitem__)
        return mixer.enter(before.read_by(self.model.step_of(mixer)), context)

    def _readout_of(self, part: Part, new: Inputs, kinds: Sequence[str] | None) -> Tensor:
        """The part's readout at the end when all positions before it enter with `new`."""
        mixer, head = part
        end = self._at_end[mixer]
        if isinstance(mixer, LinearMixer):
            before = {kind: value[:, :-1] for kind, value in new.items()}
            return mixer.read(mixer.step(mixer.memory(before), end), end)
        clean = self._window(mixer, self.tokens)
        early = {kind: value[:, :-1] for kind, value in chosen(new, kinds).items()}
        mixed = {
            kind: torch.cat([early[kind], value[:, -1:]], 1) if kind in early else value
            for kind, value in clean.items()
        }
        readout = mixer.read(mixer.memory(mixed), end)
        return readout[:, head] if mixer.n_heads > 1 else readout

    def _windows_between(self, receiver: Mixer, senders: Sequence[Part]) -> tuple[Run, Run]:
        """Clean values of all positions from the first sender on, and the senders' corrupt ones."""
        mixers = list(heads_by_mixer(senders))
        between = self._between(mixers[0], receiver)
        sites = [Site(kind, m.layer) for m in between for kind in (m.readout, m.out)]
        sites += [site for mixer in mixers for site in self.model.flow_sites(mixer)]
        sites += [Site(b.out, m.layer) for m in mixers for b in self.model.step_of(m)]
        readouts = [Site(mixer.readout, mixer.layer) for mixer in mixers]
        return (
            self._captured(self.tokens, sites, receiver.layer),
            self._captured(self.corrupt, readouts, max(mixer.layer for mixer in mixers)),
        )

    def _clean_at(self, at: Tensor, between: Sequence[Mixer]) -> dict[Site, Tensor]:
        """Clean values at one position of each prompt, of the blocks of these mixers."""
        layers = range(between[0].layer, between[-1].layer + 1)
        key = ("at", tuple(at.tolist()), layers)
        if key not in self._of_clean:
            sites = [site for layer in layers for site in self._sites(layer)]
            self._of_clean[key] = picked(self._captured(self.tokens, sites, layers[-1]), at, sites)
        return self._of_clean[key]

    # --- parts

    def _places(self, first: Mixer, receiver: Mixer) -> list[tuple[int, int]]:
        """The steps from that of `first` to that before the receiver's, as (layer, step)."""
        start, stop = self.model.place_of(first), self.model.place_of(receiver)
        every = [(n, i) for n, steps in enumerate(self.model.layers) for i in range(len(steps))]
        return [place for place in every if start <= place < stop]

    def _between(self, first: Mixer, receiver: Mixer) -> list[Mixer]:
        """The mixers from the step of `first` to that before the receiver's, in order."""
        places = self._places(first, receiver)
        return [m for m in self.model.mixers() if self.model.place_of(m) in places]

    def parts(self) -> list[Part]:
        """All mixers and heads, in the order of the pass."""
        return parts_of(self.model)

    def _part(self, part: Site | str, field: str) -> Part:
        """The mixer and head of a part's name, or the mixer of a state's."""
        name = str(resolve(part, self.model.sites(), self.model.name))
        by_name = {part_name(*one): one for one in self.parts()}
        by_state = {state_name(mixer): (mixer, 0) for mixer in self.recurrences}
        found = by_name.get(name) or by_state.get(name)
        if found is None:
            names = list(by_name)
            requirement = "it must be a part that reads other positions, by its readout"
            raise InputError(field, name, requirement, f"They are {names[0]} to {names[-1]}.")
        return found

    def _parts(self, senders: Sequence[Site | str] | None) -> list[Part]:
        if senders is None:
            return self.parts()
        return sorted((self._part(one, "sender") for one in senders), key=self.parts().index)

    def _senders_below(self, receiver: Part, senders: Sequence[Site | str] | None) -> list[Part]:
        place, name = self.model.place_of(receiver[0]), part_name(*receiver)
        below = [one for one in self.parts() if self.model.place_of(one[0]) < place]
        if not below:
            requirement = "parts before it must exist"
            raise InputError("receiver", name, requirement, "Name a part above the first block.")
        some = below if senders is None else self._parts(senders)
        if not some or any(one not in below for one in some):
            wrong = next((part_name(*one) for one in some if one not in below), senders)
            known = f"{part_name(*below[0])} to {part_name(*below[-1])}"
            requirement = f"it must be a part before {name}"
            raise InputError("sender", wrong, requirement, f"They are {known}.")
        return some


def chosen(inputs: Inputs, kinds: Sequence[str] | None) -> Inputs:
    """Those of some kinds, or all."""
    return {kind: value for kind, value in inputs.items() if kinds is None or kind in kinds}


def local_window(values: Tensor, at: Tensor, width: int) -> Tensor:
    """The `width` values up to each prompt's position, (prompt, width, ...), zeros before 0."""
    each = torch.arange(len(at), device=values.device)
    places = at[:, None] - torch.arange(width - 1, -1, -1, device=values.device)
    inside = (places >= 0).view(*places.shape, *[1] * (values.ndim - 2))
    return torch.where(inside, values[each[:, None], places.clamp_min(0)], 0)


def picked(run: Run, at: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """Values of a run at each prompt's position."""
    each = torch.arange(len(at), device=at.device)
    return {site: run[site][each, at] for site in sites}
