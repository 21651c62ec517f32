"""The protocol of the SSD mixer: what it enters, keeps, carries and reads is what a pass does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.models.helpers import TOKENS, tiny

from homolog.models import Replace
from homolog.models.mixers.base import at_positions
from homolog.models.mixers.ssd import SSD
from homolog.models.taps import NOTHING

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = ("mamba2", "mamba2-bias")
LENGTHS = (1, 2, 3, 4, 11)
CLOSE = {"rtol": 0, "atol": 1e-10}


class Pass:
    """One mixer on the stream that a float64 model brings to it."""

    def __init__(self, case: str, length: int = 11) -> None:
        self.model: Any = tiny(case, torch.float64)
        self.tokens = TOKENS[:, :length]
        self.mixer: Any = next(m for m in self.model.mixers() if isinstance(m, SSD) and m.layer)
        self.sites = [f"{kind}.{self.mixer.layer}" for kind in self.mixer.sites]
        run = self.model.run(self.tokens, capture=self.sites)
        self.at = {kind: run[f"{kind}.{self.mixer.layer}"] for kind in self.mixer.sites}
        self.context = self.model.context(run[self.sites[0]])
        self.h = self.at["mixer_in"]
        self.inputs = self.mixer.enter(self.h, self.context)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("case", CASES)
def test_entering_reading_and_leaving_reproduce_the_pass(case, length):
    run = Pass(case, length)
    mixer, inputs = run.mixer, run.inputs
    for kind in mixer.inputs:
        torch.testing.assert_close(inputs[kind], run.at[kind], **CLOSE)
    states = mixer.states(inputs, range(length))
    torch.testing.assert_close(states, run.at["state"], **CLOSE)
    y = mixer.read(states, inputs)
    torch.testing.assert_close(y, run.at["y"], **CLOSE)
    torch.testing.assert_close(mixer.leave(inputs, y), run.at["mixer_out"], **CLOSE)
    torch.testing.assert_close(mixer(run.h, run.context, NOTHING), run.at["mixer_out"], **CLOSE)
    torch.testing.assert_close(mixer.memory(inputs), states[:, -1], **CLOSE)


@pytest.mark.parametrize("case", CASES)
def test_one_position_enters_as_in_the_window_for_any_senders(case):
    run = Pass(case)
    mixer, reach = run.mixer, run.mixer.reach
    padded = torch.cat([torch.zeros_like(run.at["conv_in"][:, :reach]), run.at["conv_in"]], 1)
    for t in range(11):
        alone = mixer.enter_at(run.h[:, t], run.context, padded[:, t : t + reach])
        two = torch.stack([run.h[:, t], 2 * run.h[:, t]])
        both = mixer.enter_at(two, run.context, padded[:, t : t + reach])
        for kind in mixer.inputs:
            torch.testing.assert_close(alone[kind], run.inputs[kind][:, t], **CLOSE)
            torch.testing.assert_close(both[kind][0], alone[kind], **CLOSE)
            assert both[kind].shape == (2, *alone[kind].shape)


@pytest.mark.parametrize("case", CASES)
def test_steps_one_after_the_other_are_the_states(case):
    run = Pass(case)
    state = torch.zeros_like(run.at["state"][:, 0])
    for t in range(11):
        state = run.mixer.step(state, {kind: v[:, t] for kind, v in run.inputs.items()})
        torch.testing.assert_close(state, run.at["state"][:, t], **CLOSE)
    some = run.mixer.states(run.inputs, [4, -1, 0])
    torch.testing.assert_close(some, run.at["state"][:, [4, 10, 0]], **CLOSE)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("case", CASES)
def test_a_position_written_anew_is_carried_as_a_run_with_its_values_put_in(case, length):
    run = Pass(case, length)
    mixer, layer = run.mixer, run.mixer.layer
    positions = torch.tensor([0, length // 2, length - 1])
    clean, random = at_positions(run.inputs, positions), torch.Generator().manual_seed(7)
    new = {
        kind: torch.stack([clean[kind], torch.rand(clean[kind].shape, generator=random).double()])
        for kind in ("ssm_input", "head_dt", "B")
    }
    rewritten = mixer.rewritten(run.inputs, positions, new)
    last = {kind: value[:, -1] for kind, value in run.inputs.items()}
    reread = mixer.reread(run.inputs, positions, new, last)
    for sender in range(2):
        edits = [
            Replace(f"{kind}.{layer}", v[sender].unsqueeze(1), positions=positions)
            for kind, v in new.items()
        ]
        rerun = run.model.run(run.tokens, edits=edits, capture=[f"state.{layer}", f"y.{layer}"])
        torch.testing.assert_close(rewritten[sender], rerun[f"state.{layer}"][:, -1], **CLOSE)
        torch.testing.assert_close(reread[sender], rerun[f"y.{layer}"][:, -1], **CLOSE)


def test_a_convolution_alone_gives_what_it_writes():
    run = Pass("mamba2")
    written = run.mixer.written(run.at["conv_out"])
    assert set(written) == {"ssm_input", "B", "C"}
    for kind, value in written.items():
        torch.testing.assert_close(value, run.at[kind], **CLOSE)


@pytest.mark.parametrize("t", [0, 3, 10])
def test_an_edited_recurrence_decays_head_by_head(t):
    """A state put in at one position decays by its head's decay and gains the later writes."""
    run = Pass("mamba2")
    name = f"state.{run.mixer.layer}"
    value = torch.rand(run.at["state"][:, t].shape).double()
    capture = [name, f"write.{run.mixer.layer}@2", f"{name}@1"]
    edited = run.model.run(run.tokens, edits=[Replace(f"{name}@{t}", value)], capture=capture)
    torch.testing.assert_close(edited[name][:, :t], run.at["state"][:, :t], **CLOSE)
    width = value.shape[1] // run.mixer.heads
    for later in range(t, 11):
        if later > t:
            decay = run.at["decay"][:, later].repeat_interleave(width, 1)[..., None]
            value = decay * value + run.at["write"][:, later]
        torch.testing.assert_close(edited[name][:, later], value, **CLOSE)
    torch.testing.assert_close(edited[f"{name}@1"], edited[name][:, 1], **CLOSE)
    assert torch.equal(edited[f"write.{run.mixer.layer}@2"], run.at["write"][:, 2])
