"""No pass depends on an earlier one, through the adapters and through any decoder's module."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.models.helpers import HF, adapter, tiny
from tests.models.test_any_decoder import CASES as ANY
from tests.models.test_any_decoder import adapted
from tests.reference import tiny_models

from homolog.circuits.paths import Paths
from homolog.models.any_decoder import AnyDecoder

pytestmark = pytest.mark.usefixtures("one_thread")

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 4,
    "long_factor": [1.5, 2.0, 3.0, 4.0],
}
ROPE = {"dynamic": DYNAMIC, "longrope": LONGROPE}
SMALL = {"dynamic": {}, "longrope": {"max_position_embeddings": 256}}


def window(batch: int, length: int) -> torch.Tensor:
    return torch.randint(3, 97, (batch, length), generator=torch.Generator().manual_seed(length))


def turning(name: str, kind: str, **changes: Any) -> Any:
    """A model made for 64 positions, whose frequencies follow the length of longer windows."""
    rope = ROPE[kind] | ({"partial_rotary_factor": 1.0} if name == "tiny_gpt_neox" else {})
    return getattr(tiny_models, name)(rope_parameters=rope, **SMALL[kind], **changes)


@pytest.mark.parametrize("kind", list(ROPE))
@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt_neox", "tiny_qwen3"])
def test_a_window_reads_the_same_after_a_longer_one(name, kind):
    hf = turning(name, kind)
    own = [] if hf.config.model_type == "qwen3" else [adapter(hf)]
    hf = copy.deepcopy(hf)
    for model in (*own, AnyDecoder("any", copy.deepcopy(hf))):
        short, long = window(1, 70 if kind == "dynamic" else 40), window(2, 200)
        before, longer = model.run(short).logits, model.run(long).logits
        assert torch.equal(model.run(short).logits, before)
        assert torch.equal(model.run(long).logits, longer)
        for tokens, ours in ((short, before), (long, longer)):
            theirs = copy.deepcopy(hf)(
                tokens
            ).logits.detach()  # by a module that has seen no other window
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
        stream = model.run(long, capture=["resid.0"])["resid.0"]
        torch.testing.assert_close(model.continue_from(0, stream), longer, atol=1e-5, rtol=1e-5)
        assert torch.equal(model.run(short).logits, before)


def state_of(hf: Any) -> dict[str, Any]:
    """Buffers (their values) and attributes (by identity) of every part."""
    state: dict[str, Any] = {
        f"buffer {name}": buffer.clone() for name, buffer in hf.named_buffers()
    }
    for path, part in hf.named_modules():
        state |= {f"{path} {name}": id(value) for name, value in vars(part).items()}
    return state


@pytest.mark.parametrize("case", list(ANY))
def test_a_module_is_after_a_pass_as_it_was_before(case):
    model = adapted(case)
    before, logits = state_of(model.hf), model.run(window(2, 11)).logits
    model.run(window(3, 40), capture=["resid.0"])
    model.run(window(1, 20), stop_after="resid.1")
    after = state_of(model.hf)
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = (
            torch.equal(value, after[name])
            if isinstance(value, torch.Tensor)
            else value == after[name]
        )
        assert same, name
    assert torch.equal(model.run(window(2, 11)).logits, logits)


@pytest.mark.parametrize("case", list(HF))
def test_own_adapters_read_the_same_after_other_windows(case):
    model = tiny(case)
    logits = model.run(window(2, 11)).logits
    model.run(window(3, 40), capture=model.sites())
    assert torch.equal(model.run(window(2, 11)).logits, logits)


def test_a_failing_pass_leaves_no_state_either():
    model = adapted("recurrent_gemma")
    logits = model.run(window(2, 11)).logits
    with pytest.raises(RuntimeError):
        model.hf.model.layers[-1].register_forward_hook(lambda *_: torch.zeros(2) @ torch.zeros(3))
        model.run(window(3, 11))
    model.hf.model.layers[-1]._forward_hooks.clear()
    assert torch.equal(model.run(window(2, 11)).logits, logits)


@pytest.mark.parametrize("kind", list(ROPE))
def test_keys_of_a_path_are_rotated_as_in_the_window_that_they_stand_in(kind):
    """A patch from the clean prompts changes nothing, though it is read at an early position."""
    model = adapter(turning("tiny_llama", kind))
    clean = window(2, 100)
    paths, at = Paths(model, clean, clean), torch.tensor([3, 9])
    asked = (paths.parts_to_part("z.2.1", {"": at}), paths.writes_to_logits("z.2.1", {"B": at}))
    for patch in (patch for patches in asked for patch in patches):
        expected = paths.logits.expand_as(patch.logits)
        torch.testing.assert_close(patch.logits, expected, atol=1e-4, rtol=1e-4)
