"""Path patching in Mamba: scan outputs and carried states to logits, and what enters a state.

The scan is what moves information between positions, so its state (or its output y) is what is
held.  At the last position T of a layer:

    state[T] = A_bar[T] * state[T-1] + write[T]        y = C state[T]

    y to logits             y of one layer from the corrupt run
    state to logits         A_bar[T] * corrupt state[T-1] + write[T], with the clean decay and write
    write at p to logits    the corrupt write and its own decay at position p, carried to the end by
                            the clean decays
    convolution into p      the same write, computed from convolution inputs of which some are
                            corrupt
    layer to layer          y of an earlier layer at earlier positions, into the state[T-1] of a
                            later one

Held: every other layer's state (its y, where a y is the sender).  Recomputed: all that a position
computes from its own residual stream.  The recurrence is linear in its writes, so that a patched
write changes the last state by exp(A * (sum of dt from p+1 to T)) times the change, and no scan is
run again.  Source: [Wang 2025] and its released code, with two differences: patches are independent
of each other, and a write keeps its own position's decay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from homolog.circuits.replay import Advance, Patched, PatchedRows, Replay, last
from homolog.errors import InputError
from homolog.models.widening import widened
from homolog.models.mamba import Mamba, causal_conv, discretise
from homolog.models.runs import Run
from homolog.models.scan import propagate, selective_scan
from homolog.models.sites import Site
from homolog.models.tokens import TokensLike

Hold = Literal["y", "state"]
_LEAVING = ("resid_pre", "ssm_input", "gate_in")  # with y, what a block's output is made of


class StatePaths(Replay):
    """One batch of prompt pairs; the clean pass runs once, questions add what they alone need.

    clean, corrupt (prompt, position): token ids of the same shape.
    """

    model: Mamba

    def __init__(self, model: Mamba, clean: TokensLike, corrupt: TokensLike) -> None:
        super().__init__(model, clean, corrupt)
        self._length = self.tokens.shape[1]
        if self._length < 2:
            requirement = "a state must be carried into the last position"
            remedy = "Give prompts of two tokens or more."
            raise InputError("clean", tuple(self.tokens.shape), requirement, remedy)
        layers = range(model.n_layers)
        window = range(max(0, self._length - model.conv_width), self._length - 1)
        kept = [Site("conv_in", layer, position=p) for layer in layers for p in window]
        for kind in ("resid_pre", "y", "gate_in", "ssm_input", "dt", "B", "C"):
            kept += last(kind, model.n_layers)
        self._carried_in = [Site("state", layer, position=self._length - 2) for layer in layers]
        kept += self._carried_in
        self._clean = self.model.run(self.tokens, capture=kept, last_only=True)
        assert self._clean.logits is not None
        self.logits = self._clean.logits[:, 0]
        self._earlier = [self._earlier_taps(layer) for layer in layers]

    def _advance(self, hold: Hold) -> Advance:
        """A block at the last position with that part of its scan held."""
        model = self.model

        def advance(layer: int, h: Tensor) -> Tensor:
            u, z = self._mix(layer, h)
            if hold == "y":
                y = self._clean[Site("y", layer, position=-1)]
            else:
                y = torch.einsum("nde,sne->snd", self._state(layer), model.output_matrix(layer, u))
            return model.after_scan(layer, h, u, y, z)

        return advance

    def _mix(self, layer: int, h: Tensor) -> tuple[Tensor, Tensor]:
        """SSM input and gate_in at the last position from the stream there, the others clean."""
        x, z = self.model.halves(layer, h)
        mixer = self.model.mixer(layer)
        return mixer.act(self._earlier[layer] + x * mixer.conv1d.weight[:, 0, -1]), z

    # --- senders at the last position

    def y_to_logits(self) -> Iterator[Patched]:
        """Each layer's y at the last position from the corrupt run, every other layer's held."""
        corrupt = self._corrupt_y()
        starts = [
            PatchedRows(layer, (f"y.{layer}",), self._leave(layer, y))
            for layer, y in enumerate(corrupt)
        ]
        return self.to_logits(starts, self._advance("y"))

    def state_to_logits(self) -> Iterator[Patched]:
        """What each layer carries into the last position from the corrupt run, the others held."""
        run = self._corrupt_run(self._carried_in)
        return self.states_to_logits(
            [
                (f"state.{layer}", layer, self.carried(layer, run[site]))
                for layer, site in enumerate(self._carried_in)
            ]
        )

    def states_to_logits(self, senders: Sequence[tuple[str, int, Tensor]]) -> Iterator[Patched]:
        """Given states at the last position, the others held.

        senders   (label, layer, state (prompt, d_inner, d_state))
        """
        starts = []
        for label, layer, state in senders:
            C = self._clean[Site("C", layer, position=-1)]
            y = (state * C.unsqueeze(-2)).sum(-1)
            starts.append(PatchedRows(layer, (label,), self._leave(layer, y[None])))
        return self.to_logits(starts, self._advance("state"))

    def carried(self, layer: int, before: Tensor) -> Tensor:
        """The state at the last position, given that before it; decay and write are clean."""
        return self._step(layer, before, *self._at_last(layer, "ssm_input", "dt", "B"))

    def _step(self, layer: int, before: Tensor, u: Tensor, dt: Tensor, B: Tensor) -> Tensor:
        A_bar, _, write = discretise(widened(u), dt, self.model.A(layer), B)
        return A_bar * before + write

    # --- writes at earlier positions

    def writes_to_logits(self, layer: int, positions: dict[str, Tensor]) -> Iterator[Patched]:
        """The layer's write, with its own decay, from the corrupt run at each of `positions`.

        positions   label: (prompt,)
        """
        clean, corrupt = self._inner(layer)
        writes = {label: (p, _pick(corrupt, layer, p)) for label, p in positions.items()}
        return self._writes(layer, clean, writes)

    def conv_to_write(
        self, layer: int, write_at: Tensor, inputs: dict[str, Sequence[int]]
    ) -> Iterator[Patched]:
        """The write at `write_at` (prompt,) from convolution inputs of which some are corrupt.

        inputs   label: how many positions before the write each corrupt input is; 0 is the write's
                 own position
        """
        width = self.model.conv_width
        if far := [back for before in inputs.values() for back in before if not 0 <= back < width]:
            requirement = f"the convolution reads {width} positions"
            raise InputError("inputs", far[0], requirement, f"Give 0 to {width - 1}.")
        clean, corrupt = self._inner(layer)
        mixer, device = self.model.mixer(layer), self.model.device
        each = torch.arange(len(write_at), device=device)
        offsets = torch.arange(width - 1, -1, -1, device=device)
        # (prompt, tap): the position that each tap reads
        places = write_at.to(device)[:, None] - offsets
        inside = (places >= 0)[..., None]
        near = (each[:, None], places.clamp_min(0))
        own, other = (
            torch.where(inside, run[Site("conv_in", layer)][near], 0) for run in (clean, corrupt)
        )
        writes = {}
        for label, before in inputs.items():
            taken = torch.isin(offsets, torch.tensor(list(before), device=device))[:, None]
            u = self._convolved(mixer, torch.where(taken, other, own))[:, -1]
            dt, B, _ = self.model.selection(layer, u)
            writes[label] = (write_at, (widened(u), dt, B))
        return self._writes(layer, clean, writes)

    def _writes(
        self,
        layer: int,
        clean: Run,
        senders: dict[str, tuple[Tensor, tuple[Tensor, Tensor, Tensor]]],
    ) -> Iterator[Patched]:
        """Writes carried to the end by the clean decays.

        senders   labels with their positions and the (u, dt, B) of the write there
        """
        u, dt, B = (clean[Site(kind, layer)] for kind in ("ssm_input", "dt", "B"))
        A, C = self.model.A(layer), clean[Site("C", layer)]
        needed = sorted({max(0, int(p) - 1) for position, _ in senders.values() for p in position})
        scanned = selective_scan(widened(u), dt, A, B, C, return_states=needed).states
        assert scanned is not None
        final = self._state(layer)
        each = torch.arange(len(u))
        states = []
        for label, (position, (new_u, new_dt, new_B)) in senders.items():
            place = torch.tensor([needed.index(max(0, int(p) - 1)) for p in position])
            started = (position > 0)[:, None, None].to(scanned)  # zero before position 0
            before = scanned[each, place] * started
            old_u, old_dt, old_B = _pick(clean, layer, position)
            old_A_bar, _, old_write = discretise(old_u, old_dt, A, old_B)
            A_bar, _, write = discretise(new_u, new_dt, A, new_B)
            change = (A_bar - old_A_bar) * before + write - old_write
            carried = propagate(change, dt, A, position, self._length - 1)
            states.append((label, layer, final + carried))
        return self.states_to_logits(states)

    # --- earlier layers

    def layers_to_state(
        self,
        receiver: int,
        senders: Sequence[int] | None = None,
        positions: dict[str, Tensor] | None = None,
    ) -> Iterator[Patched]:
        """y of each earlier layer before the end, as the receiver's state carries it to the end.

        positions   label: (prompt, n) positions at which the sender is patched; by default
                    everywhere before the last
        Layers between hold their y everywhere; the receiver's convolution, dt, B and so its writes
        are recomputed.  Labels are "y.LAYER", with the label of the positions after an @ where some
        are given.
        """
        chosen = list(range(receiver)) if senders is None else list(senders)
        below = all(0 <= sender < receiver for sender in chosen)
        if not chosen or not below or receiver >= self.model.n_layers:
            below_it = (
                f"layers below the receiver, {receiver}, of the model's {self.model.n_layers}"
            )
            remedy = "Name layers below it, or take a higher receiver."
            raise InputError("senders", chosen, f"they must be {below_it}", remedy)
        lowest, end = min(chosen), self._length - 1
        capture = [Site("y", layer) for layer in range(lowest, receiver)]
        capture += [Site(kind, layer) for kind in _LEAVING for layer in chosen]
        clean = self.model.run(self.tokens, capture=capture, stop_after=f"resid.{receiver - 1}")
        corrupt = self._corrupt_run([Site("y", layer) for layer in chosen], max(chosen))
        everywhere = {"": torch.arange(end).expand(len(self.tokens), end)}
        states = []
        for sender in chosen:
            for label, at in (positions or everywhere).items():
                y = clean[Site("y", sender)]
                index = at.to(y.device).unsqueeze(-1).expand(-1, -1, y.shape[-1])
                y = y.scatter(1, index, corrupt[Site("y", sender)].gather(1, index))
                before = self._walk(sender, receiver, y, clean)
                name = f"y.{sender}@{label}" if label else f"y.{sender}"
                states.append((name, receiver, self.carried(receiver, before)))
        return self.states_to_logits(states)

    def _walk(self, sender: int, receiver: int, y: Tensor, clean: Run) -> Tensor:
        """The receiver's state before the end when the sender's y is as given, other y held."""
        model, end = self.model, self._length - 1
        h, u, z = (clean[Site(kind, sender)][:, :end] for kind in _LEAVING)
        h = model.after_scan(sender, h, u, y[:, :end], z)
        for layer in range(sender + 1, receiver + 1):
            x, z = model.halves(layer, h)
            u = self._convolved(model.mixer(layer), x)
            if layer < receiver:
                h = model.after_scan(layer, h, u, clean[Site("y", layer)][:, :end], z)
        dt, B, C = model.selection(receiver, u)
        return selective_scan(widened(u), dt, model.A(receiver), B, C).last_state

    # --- parts

    def _leave(self, layer: int, y: Tensor) -> Tensor:
        """The stream after block `layer` at the end, with other y (sender, prompt, d_inner)."""
        h, u, z = self._at_last(layer, *_LEAVING)
        return self.model.after_scan(layer, h[None], u, y, z)

    def _state(self, layer: int) -> Tensor:
        """The clean state at the last position."""
        return self.carried(layer, self._clean[self._carried_in[layer]])

    def _at_last(self, layer: int, *kinds: str) -> list[Tensor]:
        """Clean values at the last position."""
        return [self._clean[Site(kind, layer, position=-1)] for kind in kinds]

    def _corrupt_run(self, sites: Sequence[Site], stop: int | None = None) -> Run:
        """The corrupt prompts, through the blocks up to `stop` (all by default)."""
        stop = self.model.n_layers - 1 if stop is None else stop
        return self.model.run(self.corrupt, capture=sites, stop_after=f"resid.{stop}")

    def _convolved(self, mixer: Any, x: Tensor) -> Tensor:
        """SSM input at every position, from the convolution's input."""
        return mixer.act(causal_conv(x, mixer.conv1d.weight, mixer.conv1d.bias))

    def _earlier_taps(self, layer: int) -> Tensor:
        """What the last convolution has from earlier positions and the bias: (prompt, d_inner)."""
        conv, width = self.model.mixer(layer).conv1d, self.model.conv_width
        out = self._clean[Site("resid_pre", layer, position=-1)].new_zeros(())
        for back in range(min(width, self._length) - 1, 0, -1):
            x = self._clean[Site("conv_in", layer, position=self._length - 1 - back)]
            out = out + conv.weight[:, 0, width - 1 - back] * x
        return out if conv.bias is None else out + conv.bias

    def _corrupt_y(self) -> list[Tensor]:
        """y of every layer at the last position of the corrupt prompts (1, prompt, d_inner).

        Where they differ from the clean ones in nothing but the last token, that is one step from
        the clean states.
        """
        model = self.model
        if not torch.equal(self.tokens[:, :-1], self.corrupt[:, :-1]):
            sites = last("y", model.n_layers)
            run = self._corrupt_run(sites)
            return [run[site][None] for site in sites]
        step = model.run(self.corrupt[:, -1:], capture=["embed"], stop_after="embed")
        h = step["embed"].transpose(0, 1)
        outputs = []
        for layer in range(model.n_layers):
            u, z = self._mix(layer, h)
            dt, B, C = model.selection(layer, u)
            state = self._step(layer, self._clean[self._carried_in[layer]], u, dt, B)
            outputs.append((state * C.unsqueeze(-2)).sum(-1))
            h = model.after_scan(layer, h, u, outputs[-1], z)
        return outputs

    def _inner(self, layer: int) -> tuple[Run, Run]:
        """The layer's convolution and scan inputs everywhere, of clean and corrupt prompts.

        Kept for the next question about that layer, those of one layer at a time.
        """
        sites = [Site(kind, layer) for kind in ("conv_in", "ssm_input", "dt", "B", "C")]
        for memo, tokens in ((self._of_clean, self.tokens), (self._of_corrupt, self.corrupt)):
            if memo.get("layer") != layer:
                memo["inner"] = self.model.run(tokens, capture=sites, stop_after=f"resid.{layer}")
                memo["layer"] = layer
        return self._of_clean["inner"], self._of_corrupt["inner"]


def _pick(run: Run, layer: int, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(u, dt, B) of a run at each prompt's position."""
    each = torch.arange(len(position))
    u, dt, B = (run[Site(kind, layer)][each, position] for kind in ("ssm_input", "dt", "B"))
    return widened(u), dt, B
