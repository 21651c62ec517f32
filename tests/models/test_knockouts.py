"""Edges between positions removed, against slow loops and against readouts put in by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.models.helpers import HF, TOKENS, tiny
from tests.models.test_hidden_attention import CARRIED, CLOSE

from homolog.errors import InputError
from homolog.models import Add, Knockout, Replace, Zero
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.mlstm import MLSTM
from homolog.models.mixers.time_mixing import TimeMixing
from homolog.models.sites import KINDS

pytestmark = pytest.mark.usefixtures("one_thread")

QUERY, KEY = torch.tensor([10, 7, 9]), torch.tensor([[4, 9], [0, 7], [9, 1]])
"""Of each prompt one position that does not hear two others, itself among them."""


def without(mixer: Any, run: Any, context: Any) -> torch.Tensor:
    """The readout at each prompt's QUERY when it does not hear its KEYs, by a loop."""
    layer, rows = mixer.layer, torch.arange(3)
    kept = torch.ones(3, 11, dtype=torch.bool).scatter(1, KEY, False)
    kept &= torch.arange(11) <= QUERY[:, None]
    if isinstance(mixer, Attention):
        pattern = run[f"pattern.{layer}"][rows, :, QUERY]  # (prompt, head, key)
        sink = 1 - pattern.sum(-1)
        left = pattern * kept[:, None]
        left = left / (left.sum(-1) + sink)[..., None]
        value = run[f"value.{layer}"]
        value = value.repeat_interleave(left.shape[1] // value.shape[2], 2)
        return torch.einsum("nhs,nshd->nhd", left, value)
    inputs = mixer.prepared({k: run[f"{k}.{layer}"] for k in mixer.inputs}, context)
    if isinstance(mixer, TimeMixing):
        write, u = run[f"write.{layer}"], mixer.module.time_first[:, None].exp()
        decay = torch.exp(-mixer.module.time_decay.exp())[:, None]
        sums = torch.zeros_like(write[:, 0])
        for n in range(3):
            for s in kept[n].nonzero().flatten().tolist():
                back = int(QUERY[n]) - s
                sums[n] += write[n, s] * (u if back == 0 else decay ** (back - 1))
        return sums[..., 0] / sums[..., 1]
    if isinstance(mixer, MLSTM):  # what is not heard is not in the normaliser
        left = []
        for n in range(3):
            state = mixer.states(inputs, [0])[n : n + 1, 0] * 0
            for t in range(int(QUERY[n]) + 1):
                at = {k: value[n : n + 1, t] for k, value in inputs.items()}
                heard = at["write_scale"] * bool(kept[n, t])
                state = mixer.step(state, at | {"write_scale": heard})
            left.append(mixer.read(state, at)[0])
        return torch.stack(left)
    kind = CARRIED[mixer.kind]
    removed = torch.zeros_like(run[f"{mixer.readout}.{layer}"][:, 0])
    for n in range(3):
        for s in KEY[n].tolist():
            state = mixer.states(inputs, [0])[n : n + 1, 0] * 0
            for t in range(int(QUERY[n]) + 1):
                at = {k: value[n : n + 1, t] for k, value in inputs.items()}
                state = mixer.step(state, at | ({} if t == s else {kind: at[kind] * 0}))
            nothing = mixer.read(state * 0, at)  # a bias
            removed[n] += (mixer.read(state, at) - nothing)[0]
    return run[f"{mixer.readout}.{layer}"][rows, QUERY] - removed


@pytest.mark.parametrize("case", list(HF))
def test_a_position_reads_out_all_but_what_it_does_not_hear(case):
    model: Any = tiny(case, torch.float64)
    mixers = model.mixers(1)
    if not mixers:
        pytest.skip("block 1 moves nothing between positions")
    context = model.context(torch.zeros(*TOKENS.shape, model.d_model).double())
    clean = model.run(TOKENS, capture=[s for s in model.sites() if s.layer == 1])
    for mixer in mixers:
        site = f"{mixer.readout}.1"
        expected = clean[site].clone()
        expected[torch.arange(3), QUERY] = without(mixer, clean, context)
        run = model.run(TOKENS, edits=[Knockout(site, QUERY, key=KEY)], capture=[site])
        torch.testing.assert_close(run[site], expected, **CLOSE)
        put = model.run(TOKENS, edits=[Replace(site, expected)])
        torch.testing.assert_close(run.logits, put.logits, rtol=0, atol=1e-9)
        assert not torch.allclose(run.logits, clean.logits)


@pytest.mark.parametrize(("case", "part"), [("llama", "z.1"), ("mamba2", "y.1"), ("rwkv", "y.1")])
def test_some_heads_alone(case, part):
    """Heads of attention and SSD, channels of RWKV; all positions, where none is named."""
    model = tiny(case, torch.float64)
    clean = model.run(TOKENS, capture=[part])[part]
    one = model.run(TOKENS, edits=[Knockout(part, key=2, heads=[1])], capture=[part])[part]
    all_ = model.run(TOKENS, edits=[Knockout(part, key=2)], capture=[part])[part]
    heads = {"llama": clean.shape[2], "mamba2": 8, "rwkv": 32}[case]
    clean, one, all_ = (x.reshape(3, 11, heads, -1) for x in (clean, one, all_))
    torch.testing.assert_close(one[:, :, 1], all_[:, :, 1], **CLOSE)
    torch.testing.assert_close(one[:, :, [0, 2, 3]], clean[:, :, [0, 2, 3]], **CLOSE)
    torch.testing.assert_close(all_[:, :2], clean[:, :2], **CLOSE)
    assert not torch.allclose(all_[:, 2:], clean[:, 2:])


def test_a_head_and_a_position_may_stand_in_the_name():
    model = tiny("llama", torch.float64)
    named = model.run(TOKENS, edits=[Knockout("z.1.2@-1", key=[3, 4])]).logits
    chosen = model.run(TOKENS, edits=[Knockout("z.1", 10, key=[3, 4], heads=[2])]).logits
    torch.testing.assert_close(named, chosen, **CLOSE)


def test_several_blocks_see_what_the_blocks_before_them_lost():
    model = tiny("mamba", torch.float64)
    edits = [Knockout(f"y.{layer}", -1, key=4) for layer in (0, 1)]
    both = model.run(TOKENS, edits=edits, capture=["y.1"])
    first = model.run(TOKENS, edits=edits[:1], capture=["y.0"])
    again = [Replace("y.0", first["y.0"]), edits[1]]
    torch.testing.assert_close(both.logits, model.run(TOKENS, edits=again).logits, **CLOSE)


@pytest.mark.parametrize("first", [True, False])
def test_edits_at_the_same_site_come_in_the_order_given(first):
    model = tiny("llama", torch.float64)
    knock, zero = Knockout("z.1", key=4), Zero("z.1")
    edits = [knock, zero] if first else [zero, knock]
    z = model.run(TOKENS, edits=edits, capture=["z.1"])["z.1"]
    assert z.any() != first


@pytest.mark.parametrize(("case", "part"), [("llama", "z.1"), ("mamba", "y.1"), ("rwkv", "y.1")])
def test_positions_count_without_the_token_that_windows_begin_with(case, part):
    model = tiny(case, torch.float64)
    with_it = torch.cat([torch.full((3, 1), 5), TOKENS], 1)
    plain = model.run(with_it, edits=[Knockout(part, [8, -1], key=4)], capture=[part])
    begun = model._read_after(5)
    run = begun.run(TOKENS, edits=[Knockout(part, [7, -1], key=3)], capture=[part])
    torch.testing.assert_close(run[part], plain[part][:, 1:], **CLOSE)
    torch.testing.assert_close(run.logits, plain.logits[:, 1:], **CLOSE)


def test_gradients_flow_through_what_is_left():
    model = tiny("mamba2", torch.float64)
    embedded = model.run(TOKENS, capture=["embed"])["embed"].requires_grad_()

    def lost(h):
        edits = [Replace("embed", h), Knockout("y.1", -1, key=4)]
        return model.run(TOKENS[:1], edits=edits, last_only=True).logits[:, :, :3]

    assert torch.autograd.gradcheck(lost, embedded[:1].detach().requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype(dtype):
    for case, part in (("llama", "z.1"), ("mamba2", "y.1"), ("rwkv", "y.1")):
        model = tiny(case, dtype)
        before = model.run(TOKENS, capture=[part])[part]
        after = model.run(TOKENS, edits=[Knockout(part, key=4)], capture=[part])[part]
        assert after.dtype == before.dtype
        assert after.isfinite().all() and not torch.equal(after, before)


def test_where_nothing_is_left_to_hear_it_is_undefined():
    model = tiny("llama", torch.float64)
    z = model.run(TOKENS, edits=[Knockout("z.1", 0, key=0)], capture=["z.1"])["z.1"]
    assert z[:, 0].isnan().all() and z[:, 1:].isfinite().all()


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([Knockout("y.1")], "positions that are not heard"),
        ([Knockout("y.1", key=11)], "has 11 keys"),
        ([Knockout("conv_in.1", key=1)], "what a mixer reads out"),
        ([Knockout("resid.1", key=1)], "what a mixer reads out"),
        ([Knockout("y.1", key=1, channels=[2])], "a Knockout has none"),
        ([Knockout("y.1", key=1), Zero("state.1@3")], "its memory is not edited"),
        ([Add("write.1", torch.ones(())), Knockout("y.1", key=1)], "its memory is not edited"),
    ],
)
def test_what_cannot_be_known_is_refused(edits, message):
    with pytest.raises(InputError, match=message):
        tiny("mamba").run(TOKENS, edits=edits)


def test_every_readout_has_positions():
    for case in HF:
        assert all("position" in KINDS[m.readout] for m in tiny(case).mixers())
