"""The protocol of mixers with linear memories, whatever those are: what it says a pass does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from tests.models.helpers import RECURRENCES, TOKENS, relative, tiny
from tests.reference.plain_recurrences import plain_logits
from torch import Tensor

from homolog.models import Replace
from homolog.models.mixers.base import at_positions
from homolog.models.mixers.channel_mixing import ChannelMixing
from homolog.models.mixers.mlstm import MLSTM
from homolog.models.mixers.rg_lru import RGLRU
from homolog.models.mixers.short_convolution import ShortConvolution
from homolog.models.mixers.time_mixing import TimeMixing
from homolog.models.taps import NOTHING

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTHS = (1, 2, 3, 4, 11)
CLOSE = {"rtol": 0, "atol": 1e-10}


class Memory(NamedTuple):
    """shown: the part of the protocol's state that the site `state` shows; None: there is none."""

    case: str
    mixer: type
    writes: tuple[str, ...]
    shown: Callable[[Tensor], Tensor] | None


def whole(state: Tensor) -> Tensor:
    return state


def after(state: Tensor) -> Tensor:
    return state[..., 2:]


GATED = ("conv_out", "recurrence_gate", "input_gate")
MEMORIES = {
    "RG-LRU": Memory("recurrent-gemma", RGLRU, GATED, whole),
    "RG-LRU, 3 taps": Memory("recurrent-gemma-attention", RGLRU, GATED, whole),
    "short convolution": Memory("lfm2", ShortConvolution, ("value", "input_gate"), whole),
    "with biases": Memory("lfm2-bias", ShortConvolution, ("value", "input_gate"), whole),
    "time mixing": Memory("rwkv", TimeMixing, ("key", "value"), after),
    "mLSTM": Memory("xlstm", MLSTM, ("query", "key", "value", "write_scale", "decay"), whole),
    "mLSTM, fused": Memory("xlstm-fused", MLSTM, ("key", "write_scale"), whole),
    "channel mixing": Memory("rwkv", ChannelMixing, ("mlp_normed",), None),
}


class Pass:
    """One mixer on the stream that a float64 model brings to it."""

    def __init__(self, memory: Memory, length: int = 11) -> None:
        self.model: Any = tiny(memory.case, torch.float64)
        self.tokens, self.shown = TOKENS[:, :length], memory.shown
        mixers = [m for m in self.model.mixers() if isinstance(m, memory.mixer)]
        self.mixer: Any = mixers[-1]
        self.layer = self.mixer.layer
        sites = [f"{kind}.{self.layer}" for kind in self.mixer.sites]
        run = self.model.run(self.tokens, capture=[*sites, "embed"])
        self.at = {kind: run[f"{kind}.{self.layer}"] for kind in self.mixer.sites}
        self.context = self.model.context(run["embed"])
        self.h = self.at[self.mixer.stream]
        self.inputs = self.mixer.enter(self.h, self.context)


@pytest.fixture(params=list(MEMORIES))
def memory(request):
    return MEMORIES[request.param]


@pytest.mark.parametrize("length", LENGTHS)
def test_entering_reading_and_leaving_reproduce_the_pass(memory, length):
    run = Pass(memory, length)
    mixer, inputs = run.mixer, run.inputs
    for kind in mixer.inputs:
        torch.testing.assert_close(inputs[kind], run.at[kind], **CLOSE)
    captured = {kind: run.at[kind] for kind in mixer.inputs}
    again = mixer.prepared(captured, run.context)
    assert again.keys() == inputs.keys()
    states = mixer.states(again, range(length))
    if run.shown is not None:
        torch.testing.assert_close(run.shown(states), run.at["state"], **CLOSE)
    readout = mixer.read(states, inputs)
    torch.testing.assert_close(readout, run.at[mixer.readout], **CLOSE)
    torch.testing.assert_close(mixer.leave(inputs, readout), run.at[mixer.out], **CLOSE)
    torch.testing.assert_close(mixer(run.h, run.context, NOTHING), run.at[mixer.out], **CLOSE)
    torch.testing.assert_close(mixer.memory(inputs), states[:, -1], **CLOSE)
    torch.testing.assert_close(mixer.states(inputs, [-1, 0]), states[:, [-1, 0]], **CLOSE)


def test_one_position_enters_as_in_the_window_for_any_senders(memory):
    run = Pass(memory)
    mixer, reach = run.mixer, run.mixer.reach
    for t in range(11):
        past = None
        if reach:
            local = run.at[mixer.local]
            past = torch.cat([torch.zeros_like(local[:, :reach]), local], 1)[:, t : t + reach]
        context = run.model.context_at(torch.full((3,), t), 11, run.h)
        alone = mixer.enter_at(run.h[:, t], context, past)
        both = mixer.enter_at(torch.stack([run.h[:, t], 2 * run.h[:, t]]), context, past)
        for kind, value in alone.items():
            torch.testing.assert_close(value, run.inputs[kind][:, t], **CLOSE)
            torch.testing.assert_close(both[kind][0], value, **CLOSE)
            assert both[kind].shape == (2, *value.shape)


def test_steps_one_after_the_other_are_the_states(memory):
    run = Pass(memory)
    states = run.mixer.states(run.inputs, range(11))
    state = torch.zeros_like(states[:, 0])
    for t in range(11):
        at = {kind: value[:, t] for kind, value in run.inputs.items()}
        state = run.mixer.step(torch.stack([state, state]), at)[1]
        torch.testing.assert_close(state, states[:, t], **CLOSE)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_position_written_anew_is_carried_as_a_run_with_its_values_put_in(memory, length):
    run = Pass(memory, length)
    mixer, layer = run.mixer, run.layer
    positions = torch.tensor([0, length // 2, length - 1])
    clean, random = at_positions(run.inputs, positions), torch.Generator().manual_seed(7)
    new = {
        kind: torch.stack([clean[kind], torch.rand(clean[kind].shape, generator=random).double()])
        for kind in memory.writes
    }
    rewritten = mixer.rewritten(run.inputs, positions, new)
    last = {kind: value[:, -1] for kind, value in run.inputs.items()}
    reread = mixer.reread(run.inputs, positions, new, last)
    names = [f"{mixer.readout}.{layer}"] + ([] if run.shown is None else [f"state.{layer}"])
    for sender in range(2):
        edits = [
            Replace(f"{kind}.{layer}", v[sender].unsqueeze(1), positions=positions)
            for kind, v in new.items()
        ]
        rerun = run.model.run(run.tokens, edits=edits, capture=names)
        torch.testing.assert_close(reread[sender], rerun[names[0]][:, -1], **CLOSE)
        if run.shown is not None:
            torch.testing.assert_close(
                run.shown(rewritten[sender]), rerun[names[1]][:, -1], **CLOSE
            )


def test_what_a_change_has_become_is_what_the_same_steps_make_of_it(memory):
    """At any stop, for a start of each prompt's own; senders stand before prompts."""
    run = Pass(memory)
    mixer, start = run.mixer, torch.tensor([2, 4, 0])
    states = mixer.states(run.inputs, range(11))
    shape = (2, *states[:, 0].shape)
    change = torch.randn(shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    for stop in (4, 5, 9, 10):
        carried = mixer.carry(change, run.inputs, start, stop)
        for prompt, begun in enumerate(start.tolist()):
            clean, state = states[prompt, begun], states[prompt, begun] + change[:, prompt]
            for t in range(begun + 1, stop + 1):
                at = {kind: value[prompt, t] for kind, value in run.inputs.items()}
                clean, state = mixer.step(clean, at), mixer.step(state, at)
            torch.testing.assert_close(carried[:, prompt], state - clean, **CLOSE)


def test_the_state_is_that_of_a_run_on_the_prefix(memory):
    if memory.shown is None:
        pytest.skip("it shows no state")
    run = Pass(memory)
    name = f"state.{run.layer}"
    for t in (0, 1, 2, 5):
        prefix = run.model.run(run.tokens[:, : t + 1], capture=[name])[name]
        torch.testing.assert_close(prefix[:, -1], run.at["state"][:, t], **CLOSE)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("case", RECURRENCES)
def test_logits_equal_those_of_blocks_written_out_in_float64(case, length):
    model, narrow = tiny(case, torch.float64), tiny(case)
    tokens = TOKENS[:, :length]
    expected = plain_logits(model.hf, tokens)
    assert relative(model.run(tokens).logits, expected) < 1e-10
    assert relative(narrow.run(tokens).logits, narrow.hf(tokens, use_cache=False).logits) < 1e-5
