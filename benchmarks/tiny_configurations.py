"""A tiny configuration of any model type of transformers, by tables of fields.

Every field that `SMALL` lists gets the value there, in the configuration of the type and in those
inside it (of its text, of its images); transformers works out what follows from them, as the types
of blocks.  `SPECIAL` has the fields that a type needs beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

VOCABULARY = 96
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
SMALL: dict[str, Any] = {
    # vocabularies and windows
    "vocab_size": VOCABULARY,
    "decoder_vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "max_target_positions": 64,
    "max_seq_len": 64,
    "n_ctx": 64,
    # blocks and widths
    **dict.fromkeys(LAYERS, 4),
    "num_decoder_layers": 4,
    "encoder_layers": 1,
    "num_encoder_layers": 1,
    "depth": 1,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "emb_dim": 32,
    "embedding_dim": 32,
    "embedding_size": 32,
    "word_embed_proj_dim": 32,
    "intermediate_size": 48,
    "n_inner": 48,
    "ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_ffn_dim": 48,
    "ffn_hidden_size": 48,
    "feed_forward_size": 48,
    "dff": 48,
    "dim_ff": 48,
    "d_ff": 48,
    # heads
    "num_attention_heads": 4,
    "attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4,
    "num_encoder_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "num_key_value_heads": 2,
    "num_query_groups": 2,
    "num_kv_heads": 2,
    "head_dim": 8,
    "d_head": 8,
    "dim_head": 8,
    "kv_channels": 8,
    "rotary_dim": 4,
    "attention_head_size": 8,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "o_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "index_head_dim": 8,
    "index_n_heads": 2,
    "sliding_window": 5,
    "sliding_window_size": 5,
    "attention_window_size": 5,
    "attention_chunk_size": 8,
    "local_attention": 6,
    # experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    # recurrences
    "state_size": 8,
    "ssm_state_size": 8,
    "mamba_d_state": 8,
    "mamba_d_head": 8,
    "mamba_head_dim": 8,
    "mamba_dt_rank": 4,
    "time_step_rank": 4,
    "chunk_size": 8,
    "mamba_chunk_size": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "lru_width": 32,
    # what is read beside text
    "image_size": 16,
    "patch_size": 8,
    "out_hidden_size": 32,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
    "vision_output_dim": 32,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    # a decoder alone
    "is_decoder": True,
    "is_encoder_decoder": False,
}
"""What makes a configuration small, whatever its type."""

_LATENT = {"num_key_value_heads": 4, "head_dim": 4}  # keys are as many as queries, and half turns
_GROUPS = {"n_group": 2, "topk_group": 1}
_MAMBA_2 = {"mamba_n_heads": 8}
_INDEXED = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "hc_lowrank": 8,
}
_SLIDING = {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8}
_DOTS_3 = {
    "num_key_value_heads": 4,
    "shared_experts_intermediate_size": 16,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 12,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 8,
}
_SHARED = {
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 0,
    "num_kv_shared_layers": 4,
}
_TURNED = {"rope_type": "default", "rope_theta": 10000.0}
SPECIAL: dict[str, dict[str, Any]] = {
    "axk1": _LATENT | _GROUPS,
    "axk2": _LATENT,
    "bailing_hybrid": _LATENT | _GROUPS | {"layer_group_size": 2},
    "bamba": _MAMBA_2 | {"attn_layer_indices": [2]},
    "beam": _GROUPS,
    "blt": {
        "encoder_config": {"hidden_size_global": 32},
        "decoder_config": {"hidden_size_global": 32},
        "encoder_hash_byte_group_vocab": VOCABULARY,
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": _TURNED}},
    "dbrx": {
        "attn_config": {"clip_qkv": 8.0, "rope_theta": 10000.0, "kv_n_heads": 2},
        "rope_parameters": _TURNED,
    },
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT | _GROUPS,
    "deepseek_v32": _LATENT | _GROUPS,
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note": {
        "text_config": _DOTS_3,
        "vision_config": {
            "mlp_layer_types": ["dense"] * 4,
            "adapter_in_dim": 32,
            "adapter_out_dim": 32,
        },
        "audio_config": {"adapter_out_dim": 32, "adapter_input_size": 32},
    },
    "dots3_note_text": _DOTS_3,
    "ernie4_5_moe": {"moe_k": 2},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "glm4_moe_lite": _LATENT,
    "glm_moe_dsa": _LATENT,
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 5},
    "gemma4_assistant": {"text_config": _SHARED},
    "gemma4_unified_assistant": {"text_config": _SHARED},
    "git": {"vision_config": {"num_hidden_layers": 2}},
    "granitemoehybrid": _MAMBA_2
    | {"layer_types": ["linear_attention", "full_attention"] * 2, "num_key_value_heads": 2},
    "inkling2_text": _SLIDING,
    "inkling_text": _SLIDING,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": _LATENT | {"layer_types": ["linear_attention", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "longcat_flash": {
        "expert_ffn_hidden_size": 16,
        "zero_expert_num": 2,
        "num_key_value_heads": 4,
        "qk_head_dim": 12,
        "head_dim": 4,
    },
    "mamba2": {"num_heads": 8, "n_groups": 2},
    "minicpm3": _LATENT,
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp": {"text_config": _INDEXED},
    "qwen4_exp_text": _INDEXED,
    "reformer": {
        "attn_layers": ["local"] * 4,
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 16],
        "local_attn_chunk_length": 4,
    },
    "roc_bert": {
        "pronunciation_vocab_size": 8,
        "pronunciation_embed_dim": 8,
        "shape_vocab_size": 8,
        "shape_embed_dim": 8,
    },
    "rwkv": {"rescale_every": 0},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "xlnet": {"d_inner": 48},
    "xmod": {"default_language": "en_XX"},
    "youtu": _LATENT,
    "zamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_hidden_layers": 6,
        "num_key_value_heads": 4,
        "attention_head_dim": 16,
    },
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_key_value_heads": 4},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 8},
}
"""By model type: the fields that it needs beside, those of configurations inside it inside."""
FIRST_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tiny_configuration(model_type: str) -> Any:
    """The configuration, made by transformers; what it raises over the values goes through."""
    kind = CONFIG_MAPPING[model_type]
    return kind(**_small(kind, SPECIAL.get(model_type, {})))


def _small(kind: type[PretrainedConfig], special: Mapping[str, Any]) -> dict[str, Any]:
    """Fields for one configuration, with those of the configurations inside it."""
    names = [field.name for field in fields(kind)]
    small = {name: SMALL[name] for name in names if name in SMALL}
    tokens = [name for name in names if name.endswith(("_token_id", "_token_index"))]
    small |= {name: FIRST_TOKENS.get(name, 3) for name in tokens}
    for name, part in kind.sub_configs.items():
        inner = part if part is not AutoConfig else _usual(kind, name)
        small[name] = inner(**_small(inner, special.get(name, {})))
    return small | {name: special[name] for name in special if name not in kind.sub_configs}


def _usual(kind: type[Any], name: str) -> type[PretrainedConfig]:
    """The class that stands inside a configuration where it is not said which."""
    return CONFIG_MAPPING[kind.sub_configs_defaults[name].model_type]
