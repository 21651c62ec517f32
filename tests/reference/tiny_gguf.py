"""A tiny Llama as llama.cpp would store it, by the package gguf: weights, settings, tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np
import torch
from transformers import LlamaForCausalLM

from homolog.zoo import catalog

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""The format's names of what a block holds."""
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    hf: LlamaForCausalLM,
    file: Path,
    quantised: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    more: Mapping[str, torch.Tensor] = MappingProxyType({}),
    architecture: str = "llama",
    stretched: str | None = None,
    changed: Mapping[str, object] = MappingProxyType({}),
) -> Path:
    """Write the model with the zoo's tokenizer.

    quantised  weights, by transformers' names, in blocks of 32 numbers of 8 bits (Q8_0)
    without    weights that are left out, by the same names
    more       other tensors, by their names in the file
    stretched  what it says of its rotary frequencies
    changed    other settings of the architecture, whatever they should be
    """
    writer = gguf.GGUFWriter(file, architecture)
    settings(writer, hf.config)
    if stretched is not None:
        writer.add_string(f"{architecture}.rope.scaling.type", stretched)
    for name, value in changed.items():
        kind = gguf.GGUFValueType.get_type(value)
        kind = gguf.GGUFValueType.INT64 if isinstance(value, int) else kind
        writer.kv_data[0][f"{architecture}.{name}"] = gguf.GGUFValue(value, kind)
    tokenizer(writer)
    for name, tensor in more.items():
        writer.add_tensor(name, tensor.numpy())
    for name, weight in hf.state_dict().items():
        if name in without or (name == "lm_head.weight" and hf.config.tie_word_embeddings):
            continue
        stored = in_pairs(name, weight, hf.config).numpy()
        if name in quantised:
            blocks = gguf.quants.quantize(stored, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(stored_name(name), blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(stored_name(name), np.ascontiguousarray(stored))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def settings(writer: gguf.GGUFWriter, config) -> None:
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def tokenizer(writer: gguf.GGUFWriter) -> None:
    """The zoo's: its vocabulary and merges, and its one special token."""
    model = json.loads((catalog.TOKENIZER / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token.startswith("<|") else normal for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def stored_name(name: str) -> str:
    """The format's name: "model.layers.2.mlp.up_proj.weight" is "blk.2.ffn_up.weight"."""
    owner = name.removesuffix(".weight")
    if owner in OUTER:
        return f"{OUTER[owner]}.weight"
    _, _, layer, part = owner.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def in_pairs(name: str, weight: torch.Tensor, config) -> torch.Tensor:
    """Numbers of queries and keys that turn together stand side by side, not half a head apart."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, n_heads in heads.items():
        if f".{part}." in name:
            halves = weight.view(n_heads, 2, config.head_dim // 2, -1)
            return halves.transpose(1, 2).reshape(weight.shape)
    return weight
