"""The real TransformerLens in a process of its own: its imports warn, and here that is an error.

    python transformer_lens_oracle.py INPUT.safetensors OUTPUT.safetensors FOLDER...

INPUT holds `tokens` (batch, position).  OUTPUT gets, for each model folder, every value that
`run_with_cache` returns, "0.blocks.0.attn.hook_z", ..., and "0.logits".  Weights are not processed:
no norm is folded, nothing is centred.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def main() -> None:
    tokens, result = load_file(sys.argv[1])["tokens"], {}
    for i, folder in enumerate(sys.argv[3:]):
        hf = AutoModelForCausalLM.from_pretrained(folder).eval().requires_grad_(False)
        lens = bridge_of(hf) if hf.config.model_type == "mamba" else hooked_transformer_of(hf)
        with torch.no_grad():
            logits, cache = lens.run_with_cache(tokens)
        result[f"{i}.logits"] = logits
        result |= {
            f"{i}.{name}": value for name, value in cache.items() if isinstance(value, torch.Tensor)
        }
    save_file({name: value.clone().contiguous() for name, value in result.items()}, sys.argv[2])


def hooked_transformer_of(hf: Any) -> Any:
    """A HookedTransformer with the weights of the module."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import (
        convert_gpt2_weights,
        convert_llama_weights,
        convert_neox_weights,
    )

    c = hf.config
    d_head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    rotary = {"positional_embedding_type": "rotary", "rotary_adjacent_pairs": False}
    if c.model_type == "gpt2":
        convert = convert_gpt2_weights
        own = {"d_mlp": c.n_inner, "eps": c.layer_norm_epsilon, "act_fn": "gelu_new"}
        own |= {"normalization_type": "LN"}
    elif c.model_type == "gpt_neox":
        convert, fraction = convert_neox_weights, c.rope_parameters["partial_rotary_factor"]
        own = rotary | {"d_mlp": c.intermediate_size, "rotary_dim": int(d_head * fraction)}
        own |= {"normalization_type": "LN", "eps": c.layer_norm_eps, "act_fn": "gelu"}
        own |= {"parallel_attn_mlp": c.use_parallel_residual}
        own |= {"rotary_base": int(c.rope_parameters["rope_theta"])}
    else:
        convert = convert_llama_weights
        own = rotary | {"d_mlp": c.intermediate_size, "rotary_dim": d_head}
        own |= {"normalization_type": "RMS", "eps": c.rms_norm_eps, "act_fn": "silu"}
        own |= {"final_rms": True, "gated_mlp": True, "n_key_value_heads": c.num_key_value_heads}
        own |= {"rotary_base": int(c.rope_parameters["rope_theta"])}
    config = HookedTransformerConfig(
        n_layers=c.num_hidden_layers,
        d_model=c.hidden_size,
        n_heads=c.num_attention_heads,
        d_head=d_head,
        d_vocab=c.vocab_size,
        n_ctx=c.max_position_embeddings,
        device="cpu",
        **own,
    )
    lens = HookedTransformer(config)
    left = lens.load_state_dict(convert(hf, config), strict=False)
    assert not left.unexpected_keys, left.unexpected_keys
    made = (".mask", ".IGNORE", ".rotary_sin", ".rotary_cos", ".b_U")
    unset = [name for name in left.missing_keys if not name.endswith(made)]
    assert not unset, unset
    lens.unembed.b_U.data.zero_()
    lens.set_use_attn_result(True)
    lens.set_use_split_qkv_input(True)
    lens.set_use_hook_mlp_in(True)
    return lens


def bridge_of(hf: Any) -> Any:
    """A bridge over a copy of the module: it replaces submodules by its own."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    bridge = build_bridge_from_module(copy.deepcopy(hf), type(hf).__name__, hf_config=hf.config)
    for block in bridge.blocks:
        block.mixer.eager_scan = True  # its own scan, which has a hook at the states
    return bridge


if __name__ == "__main__":
    main()
