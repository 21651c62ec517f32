"""Residual streams of several lanes: real ones beside hooks, and one whose numbers are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks.tiny_configurations import tiny_configuration
from torch import Tensor
from transformers import LlamaConfig, PreTrainedModel

import homolog
from homolog.models import Add, Replace
from homolog.models.any_decoder import AnyDecoder
from homolog.models.block_list import Lanes
from homolog.models.random_weights import fresh
from homolog.models.size import size_of

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = torch.randint(10, 90, (2, 9), generator=torch.Generator().manual_seed(0))
AXES = {"deepseek_v4": 2, "hy_v4": 2, "gemma3n_text": 0}
"""Where the four lanes stand in what blocks hand on."""


@pytest.mark.parametrize("axis", [0, 2])
def test_lanes_stand_side_by_side_and_apart_again(axis):
    # window w, position p, lane k, channel c holds the digits w p k c
    digits = torch.tensor(
        [
            [
                [[1000 * w + 100 * p + 10 * k + c for c in range(2)] for k in range(3)]
                for p in (0, 1)
            ]
            for w in (0, 1)
        ]
    )
    handed_on = digits.permute(2, 0, 1, 3) if axis == 0 else digits
    lanes = Lanes(3, axis)
    wide = lanes.side_by_side(handed_on)
    assert wide[1, 0].tolist() == [1000, 1001, 1010, 1011, 1020, 1021]
    assert torch.equal(lanes.apart(wide), handed_on)
    assert torch.equal(Lanes().apart(Lanes().side_by_side(digits[0])), digits[0])


def forward(hf: Any, layer: int, put: Any = lambda h: h) -> tuple[Tensor, Tensor]:
    """What the block returns, after `put`, and the logits."""
    seen = []

    def hook(_block: Any, _args: Any, out: Any) -> Any:
        seen.append(put(out if isinstance(out, Tensor) else out[0]).clone())
        return seen[0] if isinstance(out, Tensor) else (seen[0], *out[1:])

    handle = hf.model.layers[layer].register_forward_hook(hook)
    logits = hf(TOKENS, use_cache=False).logits
    handle.remove()
    return seen[0], logits


@pytest.mark.parametrize("kind", list(AXES))
def test_each_lane_is_read_and_changed_as_by_hooks(kind, tmp_path):
    fresh(tiny_configuration(kind), 0).save_pretrained(tmp_path)
    model = homolog.load(tmp_path)
    assert model.d_model == size_of(tmp_path).d_model == 4 * 32
    handed_on, logits = forward(model.hf, 1)
    run = model.run(TOKENS, capture=["resid.1", "resid_pre.2"])
    assert torch.equal(run.logits, logits)
    assert torch.equal(run["resid_pre.2"], run["resid.1"])
    for lane in range(4):
        channels = range(32 * lane, 32 * (lane + 1))
        own = (slice(None),) * AXES[kind] + (lane,)
        assert torch.equal(run["resid.1"][..., channels], handed_on[own])
        value = torch.linspace(-1, 1, 32)

        def put(h: Tensor, own: Any = own, value: Tensor = value) -> Tensor:
            h = h.clone()
            h[own] += value
            return h

        expected = forward(model.hf, 1, put)[1]
        edited = model.run(TOKENS, edits=[Add("resid.1", value, channels=channels)]).logits
        assert torch.equal(edited, expected) and not torch.equal(edited, logits)


class Doubled(torch.nn.Module):
    """A block of two lanes: (a, b) becomes (a + b, 2 b)."""

    def forward(self, h: Tensor) -> Tensor:
        a, b = h.unbind(2)
        return torch.stack([a + b, 2 * b], 2)


class TwoLanes(PreTrainedModel):
    """Embeddings e enter as (e, 0.5 e); logits read the first lane."""

    config_class = LlamaConfig

    def __init__(self) -> None:
        super().__init__(
            LlamaConfig(vocab_size=20, hidden_size=4, num_hidden_layers=2, num_attention_heads=2)
        )
        self.embed = torch.nn.Embedding(20, 4)
        self.blocks = torch.nn.ModuleList([Doubled(), Doubled()])

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embed

    def forward(self, input_ids: Tensor) -> tuple[Tensor]:
        h = torch.stack([self.embed(input_ids), 0.5 * self.embed(input_ids)], 2)
        for block in self.blocks:
            h = block(h)
        return (h[:, :, 0],)


def test_a_pass_goes_on_from_all_lanes():
    model = AnyDecoder("two lanes", TwoLanes().requires_grad_(False))
    assert model.d_model == 8
    e = model.hf.embed(TOKENS % 20)
    run = model.run(TOKENS % 20, capture=["embed", "resid.0", "resid.1"])
    # e, e/2 -> 3e/2, e -> 5e/2, 2e
    for site, (first, second) in {
        "embed": (1.0, 0.5),
        "resid.0": (1.5, 1.0),
        "resid.1": (2.5, 2.0),
    }.items():
        torch.testing.assert_close(run[site], torch.cat([first * e, second * e], -1))
    ones = torch.ones(2, 9, 8)
    assert torch.equal(model.continue_from(0, ones), torch.full((2, 9, 4), 2.0))
    assert torch.equal(model.continue_from(-1, ones), torch.full((2, 9, 4), 4.0))
    assert torch.equal(model.logits(ones), torch.ones(2, 9, 4))
    replaced = model.run(TOKENS % 20, edits=[Replace("resid_pre.1", ones)])
    assert torch.equal(replaced.logits, torch.full((2, 9, 4), 2.0))
