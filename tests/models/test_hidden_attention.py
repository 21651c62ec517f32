"""How much each position contributes to each later one, against what mixers read out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.models.helpers import HF, TOKENS, tiny

from homolog.errors import InputError
from homolog.models.hidden_attention import hidden_attention
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.mlstm import MLSTM
from homolog.models.mixers.time_mixing import TimeMixing

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSE = {"rtol": 0, "atol": 1e-10}
CARRIED = {
    "SSD": "ssm_input",
    "selective scan": "ssm_input",
    "delta rule": "value",
    "RG-LRU": "conv_out",
    "short convolution": "value",
    "channel mixing": "mlp_normed",
}


class Entered:
    """Every mixer of a float64 model, with what its positions enter with and what it reads out."""

    def __init__(self, case: str) -> None:
        self.model: Any = tiny(case, torch.float64)
        self.mixers = self.model.mixers()
        sites = [f"{k}.{m.layer}" for m in self.mixers for k in (*m.inputs, m.readout)]
        self.run = self.model.run(TOKENS, capture=sites)
        self.context = self.model.context(torch.zeros(*TOKENS.shape, self.model.d_model).double())

    def inputs(self, mixer: Any) -> dict[str, torch.Tensor]:
        values = {kind: self.run[f"{kind}.{mixer.layer}"] for kind in mixer.inputs}
        return mixer.prepared(values, self.context)


@pytest.fixture(params=list(HF))
def entered(request):
    return Entered(request.param)


def test_what_is_carried_weighed_is_what_every_mixer_reads_out(entered):
    for mixer in entered.mixers:
        readout = entered.run[f"{mixer.readout}.{mixer.layer}"]
        inputs = entered.inputs(mixer)
        alpha, carried = mixer.attention(inputs, range(11)), mixer.carried(inputs)
        assert alpha.dtype == torch.float64
        read = torch.einsum("nhts,nshd->nthd", alpha, carried).reshape(readout.shape)
        if mixer.kind == "short convolution" and mixer.module.conv.bias is not None:
            read = read + mixer.module.conv.bias
        torch.testing.assert_close(read, readout, **CLOSE)
        assert not alpha.triu(1).any()


def test_weights_are_those_of_a_memory_in_which_one_position_alone_wrote(entered):
    """Forwards, position by position: zeros in the place of what all others carry."""
    for mixer in entered.mixers:
        if isinstance(mixer, Attention | TimeMixing | MLSTM):
            continue
        inputs, kind = entered.inputs(mixer), CARRIED[mixer.kind]
        alpha, carried = mixer.attention(inputs, range(11)), mixer.carried(inputs)
        for s in (0, 4, 10):
            state = mixer.states(inputs, [0])[:, 0] * 0
            for t in range(11):
                at = {k: value[:, t] for k, value in inputs.items()}
                state = mixer.step(state, at | ({} if t == s else {kind: at[kind] * 0}))
                read = mixer.read(state, at)
                if mixer.kind == "short convolution" and mixer.module.conv.bias is not None:
                    read = read - mixer.module.conv.bias
                expected = (alpha[..., t, s, None] * carried[:, s]).flatten(1)
                torch.testing.assert_close(expected, read, **CLOSE)


def test_some_queries_are_rows_of_all(entered):
    for mixer in entered.mixers:
        inputs = entered.inputs(mixer)
        whole = mixer.attention(inputs, range(11))
        some = mixer.attention(inputs, [7, -1, 0])
        torch.testing.assert_close(some, whole[:, :, [7, 10, 0]], **CLOSE)


def test_rwkv_weighs_by_decayed_keys():
    """As its equation 14 has it, for one channel and prompt."""
    entered = Entered("rwkv")
    mixer = next(m for m in entered.mixers if isinstance(m, TimeMixing))
    inputs = entered.inputs(mixer)
    k, part = inputs["key"][1, :, 0, 5], mixer.module
    decay, bonus = part.time_decay[5].exp(), part.time_first[5]
    for t in range(11):
        weights = [torch.exp(-(t - 1 - s) * decay + k[s]) for s in range(t)]
        weights = torch.stack([*weights, torch.exp(bonus + k[t])])
        found = mixer.attention(inputs, [t])[1, 5, 0]
        torch.testing.assert_close(found[: t + 1], weights / weights.sum(), **CLOSE)


@pytest.mark.parametrize("case", ["neox-parallel", "gpt2-scaled", "llama-bias", "falcon_h1"])
def test_of_attention_it_is_the_pattern(case):
    model = tiny(case, torch.float64)
    pattern = model.run(TOKENS, capture=["pattern.1"])["pattern.1"]
    torch.testing.assert_close(hidden_attention(model, TOKENS, "z.1"), pattern, **CLOSE)
    one = hidden_attention(model, TOKENS, "z.1.2", queries=[-1])
    torch.testing.assert_close(one, pattern[:, 2:3, -1:], **CLOSE)


def test_channels_are_means_over_groups():
    model: Any = tiny("mamba", torch.float64)
    mixer = model.mixers(1)[0]
    names = [f"{kind}.1" for kind in mixer.inputs]
    run = model.run(TOKENS, capture=names)
    alpha = mixer.attention(
        {k: run[n] for k, n in zip(mixer.inputs, names, strict=True)}, range(11)
    )
    assert (alpha < 0).any() and (alpha > 0).any()
    assert alpha.shape == (3, 80, 11, 11)
    shown = hidden_attention(model, TOKENS, "y.1")
    torch.testing.assert_close(shown, alpha.abs().mean(1, keepdim=True), **CLOSE)
    signed = hidden_attention(model, TOKENS, "y.1", queries=[3, -1], groups=4, signed=True)
    by_group = torch.stack([alpha[:, 20 * g : 20 * g + 20, [3, 10]].mean(1) for g in range(4)], 1)
    torch.testing.assert_close(signed, by_group, **CLOSE)
    each = hidden_attention(model, TOKENS, "y.1", groups=80)
    torch.testing.assert_close(each, alpha, **CLOSE)


@pytest.mark.parametrize(("case", "part"), [("llama", "z.1"), ("mamba", "y.1"), ("rwkv", "y.1")])
def test_the_token_that_windows_begin_with_is_left_out(case, part):
    model = tiny(case, torch.float64)
    begun = model._read_after(5)
    with_it = torch.cat([torch.full((3, 1), 5), TOKENS], 1)
    whole = hidden_attention(model, with_it, part)
    ours = hidden_attention(begun, TOKENS, part)
    torch.testing.assert_close(ours, whole[:, :, 1:, 1:], **CLOSE)


@pytest.mark.parametrize("case", ["llama", "mamba2", "qwen3_next", "rwkv"])
def test_half_precision_is_weighed_in_float32(case):
    model = tiny(case, torch.bfloat16)
    part = "z.1" if case == "llama" else "y.1"
    assert hidden_attention(model, TOKENS, part).dtype in (torch.float32, torch.float64)


def test_what_is_no_readout_and_groups_that_do_not_fit_are_refused():
    model = tiny("mamba")
    with pytest.raises(InputError, match="what a mixer reads out"):
        hidden_attention(model, TOKENS, "conv_in.1")
    with pytest.raises(InputError, match="80 heads or channels"):
        hidden_attention(model, TOKENS, "y.1", groups=3)
