"""What holds of every linear mixer with a convolution: what it enters, keeps, carries and reads.

Everything is compared with a float64 pass of the model that the mixer belongs to.
"""

from __future__ import annotations

from typing import Any

import torch
from tests.models.helpers import TOKENS, tiny

from homolog.models import Replace
from homolog.models.mixers.base import at_positions
from homolog.models.mixers.linear_mixer import LinearMixer
from homolog.models.taps import NOTHING

LENGTHS = (1, 2, 3, 4, 11)
CLOSE = {"rtol": 0, "atol": 1e-10}


class Pass:
    """The last mixer of a kind in a model, on the stream that a pass brings to it."""

    def __init__(self, case: str, kind: type[LinearMixer], length: int = 11) -> None:
        self.model: Any = tiny(case, torch.float64)
        self.tokens = TOKENS[:, :length]
        self.mixer: Any = [m for m in self.model.mixers() if isinstance(m, kind)][-1]
        names = {each: f"{each}.{self.mixer.layer}" for each in self.mixer.sites}
        run = self.model.run(self.tokens, capture=list(names.values()))
        self.at = {each: run[name] for each, name in names.items()}
        self.h = self.at["mixer_in"]
        self.context = self.model.context(self.h)
        self.inputs = self.mixer.enter(self.h, self.context)


def require_the_pass(case: str, kind: type[LinearMixer], length: int) -> None:
    """Entering, every state, reading and leaving give what the pass has at its sites."""
    run = Pass(case, kind, length)
    mixer, inputs, at = run.mixer, run.inputs, run.at
    for each in mixer.inputs:
        torch.testing.assert_close(inputs[each], at[each], **CLOSE)
    states = mixer.states(inputs, range(length))
    torch.testing.assert_close(states, at["state"], **CLOSE)
    readout = mixer.read(states, inputs)
    torch.testing.assert_close(readout, at[mixer.readout], **CLOSE)
    torch.testing.assert_close(mixer.leave(inputs, readout), at[mixer.out], **CLOSE)
    torch.testing.assert_close(mixer(run.h, run.context, NOTHING), at[mixer.out], **CLOSE)
    torch.testing.assert_close(mixer.memory(inputs), states[:, -1], **CLOSE)


def require_single_positions(case: str, kind: type[LinearMixer]) -> None:
    """One position of each prompt enters as it does in the window, for any number of senders."""
    run = Pass(case, kind)
    mixer, local = run.mixer, run.at[run.mixer.local]
    padded = torch.cat([torch.zeros_like(local[:, : mixer.reach]), local], 1)
    for t in range(11):
        past = padded[:, t : t + mixer.reach]
        alone = mixer.enter_at(run.h[:, t], run.context, past)
        both = mixer.enter_at(torch.stack([run.h[:, t], 2 * run.h[:, t]]), run.context, past)
        for each in mixer.inputs:
            torch.testing.assert_close(alone[each], run.inputs[each][:, t], **CLOSE)
            torch.testing.assert_close(both[each][0], alone[each], **CLOSE)
            assert both[each].shape == (2, *alone[each].shape)


def require_steps(case: str, kind: type[LinearMixer]) -> None:
    """Steps one after the other give the states; those of some positions are some of all."""
    run = Pass(case, kind)
    state = torch.zeros_like(run.at["state"][:, 0])
    for t in range(11):
        state = run.mixer.step(state, {each: v[:, t] for each, v in run.inputs.items()})
        torch.testing.assert_close(state, run.at["state"][:, t], **CLOSE)
    some = run.mixer.states(run.inputs, [4, -1, 0])
    torch.testing.assert_close(some, run.at["state"][:, [4, 10, 0]], **CLOSE)


def require_carry(
    case: str, kind: type[LinearMixer], changed: tuple[str, ...], length: int
) -> None:
    """A position that enters anew gives the last state and readout of a run with it put in."""
    run = Pass(case, kind, length)
    mixer, positions = run.mixer, torch.tensor([0, length // 2, length - 1])
    clean, random = at_positions(run.inputs, positions), torch.Generator().manual_seed(7)
    new = {
        each: torch.stack([clean[each], torch.rand(clean[each].shape, generator=random).double()])
        for each in changed
    }
    rewritten = mixer.rewritten(run.inputs, positions, new)
    last = {each: value[:, -1] for each, value in run.inputs.items()}
    reread = mixer.reread(run.inputs, positions, new, last)
    state, readout = f"state.{mixer.layer}", f"{mixer.readout}.{mixer.layer}"
    for sender in range(2):
        # all that enters is put in, since later sites follow from earlier ones
        put = clean | {each: value[sender] for each, value in new.items()}
        edits = [
            Replace(f"{each}.{mixer.layer}", value.unsqueeze(1), positions=positions)
            for each, value in put.items()
        ]
        rerun = run.model.run(run.tokens, edits=edits, capture=[state, readout])
        torch.testing.assert_close(rewritten[sender], rerun[state][:, -1], **CLOSE)
        torch.testing.assert_close(reread[sender], rerun[readout][:, -1], **CLOSE)


def require_carried_change(case: str, kind: type[LinearMixer]) -> None:
    """A change of the state, carried, is what an edit of it leaves in a later state."""
    run = Pass(case, kind)
    mixer, starts = run.mixer, torch.tensor([0, 4, 8])
    state = f"state.{mixer.layer}"
    rows = torch.arange(3)
    change = torch.rand(run.at["state"][:, 0].shape).double()
    value = (run.at["state"][rows, starts] + change).unsqueeze(1)
    edits = [Replace(state, value, positions=starts)]
    edited = run.model.run(run.tokens, edits=edits, capture=[state])[state]
    for stop in (8, 10):
        carried = mixer.carry(torch.stack([change, 2 * change]), run.inputs, starts, stop)
        expected = edited[:, stop] - run.at["state"][:, stop]
        torch.testing.assert_close(carried, torch.stack([expected, 2 * expected]), **CLOSE)
