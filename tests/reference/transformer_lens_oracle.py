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

FAMILY = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma",
    "phi3": "phi3",
}
"""What TransformerLens calls the conversion of their weights."""


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
    from transformer_lens.pretrained import weight_conversions

    c = hf.config
    d_head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    rotary = {"positional_embedding_type": "rotary", "rotary_adjacent_pairs": False}
    if c.model_type == "gpt2":
        convert = weight_conversions.convert_gpt2_weights
        own = {"d_mlp": c.n_inner, "eps": c.layer_norm_epsilon, "act_fn": "gelu_new"}
        own |= {"normalization_type": "LN"}
    elif c.model_type == "gpt_neox":
        convert = weight_conversions.convert_neox_weights
        fraction = c.rope_parameters["partial_rotary_factor"]
        own = rotary | {"d_mlp": c.intermediate_size, "rotary_dim": int(d_head * fraction)}
        own |= {"normalization_type": "LN", "eps": c.layer_norm_eps, "act_fn": "gelu"}
        own |= {"parallel_attn_mlp": c.use_parallel_residual}
        own |= {"rotary_base": int(c.rope_parameters["rope_theta"])}
    else:
        convert = getattr(weight_conversions, f"convert_{FAMILY[c.model_type]}_weights")
        own = rotary | of_family(c, d_head)
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
    without = [name for name in left.unexpected_keys if not name.endswith(("ln1.b", "ln2.b"))]
    assert not without, without  # biases of norms that have none
    made = (".mask", ".IGNORE", ".rotary_sin", ".rotary_cos", ".b_U")
    made += (".mlp.b_in", ".mlp.b_out") if c.model_type == "phi3" else ()  # zeros
    unset = [name for name in left.missing_keys if not name.endswith(made)]
    assert not unset, unset
    lens.unembed.b_U.data.zero_()
    lens.set_use_attn_result(True)
    lens.set_use_split_qkv_input(True)
    lens.set_use_hook_mlp_in(True)
    return lens


def of_family(c: Any, d_head: int) -> dict[str, Any]:
    """Configuration of a model of Llama's family."""
    own = {"d_mlp": c.intermediate_size, "rotary_dim": d_head, "gated_mlp": True}
    own |= {"normalization_type": "RMS", "final_rms": True, "eps": c.rms_norm_eps}
    own |= {"act_fn": getattr(c, "hidden_activation", None) or c.hidden_act}
    own |= {"n_key_value_heads": c.num_key_value_heads}
    own |= {"rotary_base": int(c.rope_parameters["rope_theta"])}
    own |= {"use_qk_norm": c.model_type == "qwen3"}
    if window := getattr(c, "sliding_window", None):
        by_kind = {"sliding_attention": "local", "full_attention": "global"}
        kinds = [by_kind[kind] for kind in getattr(c, "layer_types", None) or ()]
        everywhere = ["local"] * c.num_hidden_layers
        own |= {"use_local_attn": True, "window_size": window, "attn_types": kinds or everywhere}
    if c.model_type == "gemma2":
        own |= {"use_normalization_before_and_after": True}
        own |= {"attn_scale": c.query_pre_attn_scalar**0.5}
        own |= {"attn_scores_soft_cap": c.attn_logit_softcapping}
        own |= {"output_logits_soft_cap": c.final_logit_softcapping}
    return own


def bridge_of(hf: Any) -> Any:
    """A bridge over a copy of the module: it replaces submodules by its own."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    bridge = build_bridge_from_module(copy.deepcopy(hf), type(hf).__name__, hf_config=hf.config)
    for block in bridge.blocks:
        block.mixer.eager_scan = True  # its own scan, which has a hook at the states
    return bridge


if __name__ == "__main__":
    main()
