"""A tiny Llama in which a token has a huge residual after some blocks, and the same one without.

Channel d of the residual stream is the token's alone: its embedding is 0.5 there, that of all
others 0, and no block writes to it.  Neuron 0 of a block's MLP reads it alone and is exactly 0 at
every other token, silu(0) x 0; what it writes is the sink.  Without it the neuron writes nothing:
up to that block, all other residuals of the two models are the same, bit by bit.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tests.reference.tiny_models import save_readable, tiny_llama
from transformers import AutoTokenizer, LlamaForCausalLM

from homolog.zoo import catalog

BLOCK = 1
HEIGHT = 1000.0
WORD = " of"


def sink_token() -> int:
    """The id of the token that is a sink, about one in fifty of English text."""
    (token,) = AutoTokenizer.from_pretrained(catalog.TOKENIZER).encode(WORD)
    return token


def sink_llama(vocab_size: int, token: int, height: float = HEIGHT) -> LlamaForCausalLM:
    """Three blocks; after `BLOCK` and the one above the token is a sink.  height 0: it is none."""
    model = tiny_llama(vocab_size=vocab_size, max_position_embeddings=128)
    d, layers = model.config.hidden_size - 1, model.model.layers
    with torch.no_grad():
        for layer in layers:
            layer.self_attn.o_proj.weight[d] = 0
            layer.mlp.down_proj.weight[d] = 0
        model.model.embed_tokens.weight[:, d] = 0
        model.model.embed_tokens.weight[token, d] = 0.5
        mlp = layers[BLOCK].mlp
        for reading in (mlp.gate_proj, mlp.up_proj):
            reading.weight[0] = 0
            reading.weight[0, d] = 1
        mlp.down_proj.weight[:, 0] = 0
        mlp.down_proj.weight[0, 0] = height
    return model


def save_sink_llama(folder: Path, height: float = HEIGHT) -> Path:
    """The model in a folder, with the tokenizer of the zoo."""
    return save_readable(folder, sink_llama, token=sink_token(), height=height)
