"""How many positions a model was made for."""

import pytest
import torch
from tests.models.helpers import adapter
from tests.models.test_passes import DYNAMIC, LONGROPE
from tests.reference import tiny_models as tiny
from transformers import BloomConfig, BloomForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

import homolog
from homolog.errors import InputError
from homolog.models.any_decoder import AnyDecoder
from homolog.models.architectures import ADAPTERS

pytestmark = pytest.mark.usefixtures("one_thread")

LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}


def gemma3() -> Gemma3ForCausalLM:
    """Frequencies of its own for each kind of block."""
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": DYNAMIC,
    }
    fields = tiny.GROUPED | {"sliding_window": 5, "query_pre_attn_scalar": 8}
    return Gemma3ForCausalLM(Gemma3TextConfig(**fields, rope_parameters=rope))


def bloom() -> BloomForCausalLM:
    """Its attention is lowered with the distance; there is no number of positions."""
    return BloomForCausalLM(BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4))


@pytest.mark.parametrize(
    ("build", "expected", "table"),
    [
        (tiny.tiny_gpt2, 64, True),
        (tiny.tiny_opt, 64, True),
        (tiny.tiny_gpt_neox, 64, False),
        (tiny.tiny_llama, 64, False),
        (tiny.tiny_falcon_h1, 64, False),
        (lambda: tiny.tiny_llama(rope_parameters=LINEAR), 64, False),
        (
            lambda: tiny.tiny_llama(rope_parameters=LONGROPE, max_position_embeddings=256),
            256,
            False,
        ),
        (lambda: tiny.tiny_llama(rope_parameters=DYNAMIC), None, False),
        (gemma3, None, False),
        (bloom, None, False),
        (tiny.tiny_mamba, None, False),
        (tiny.tiny_mamba2, None, False),
        (tiny.tiny_rwkv, None, False),
    ],
)
def test_positions_are_those_of_the_configuration(build, expected, table):
    hf = build().eval()
    adapters = [AnyDecoder("any", hf)]
    if hf.config.model_type in ADAPTERS:
        adapters.append(adapter(hf, "own"))
    for model in adapters:
        assert model.n_positions == expected
        if expected is None:
            model.require_positions(10**9)
            continue
        model.require_positions(expected)
        with pytest.raises(InputError) as error:
            model.require_positions(expected + 1, "context")
        assert str(error.value) == (
            f"context is {expected + 1}, but {model.name} has {expected} positions. "
            f"Use shorter windows: at most {expected} tokens."
        )
        longer = torch.full((1, expected + 1), 5)
        if table:
            for stop in (None, "embed"):
                with pytest.raises(
                    InputError, match=f"tokens is {expected + 1}, but .* has {expected} positions"
                ):
                    model.run(longer, stop_after=stop)
        else:  # rotary positions go on; studies ask `require_positions`
            assert model.run(longer, last_only=True).logits is not None


def test_positions_of_the_zoo():
    assert homolog.load("zoo:transformer-s0").n_positions == 512
    assert homolog.load("zoo:mamba-s0").n_positions is None
