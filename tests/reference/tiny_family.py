"""Tiny models of Llama's family, with every option on that changes what they compute.

Windows are shorter than the prompts, heads are grouped and together wider than the stream, soft
caps are reached.
"""

from __future__ import annotations

from typing import Any

from tests.reference.tiny_models import GROUPED, NARROW, spread
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, set_seed

WIDE = GROUPED | {"head_dim": 10}
WINDOWS = {
    "sliding_window": 5,
    "use_sliding_window": True,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
}
TABLES = {
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    }
}
HALF = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    }
}
GRANITE = {
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.7,
    "attention_multiplier": 0.3,
}
GEMMA = {
    "query_pre_attn_scalar": 8,
    "final_logit_softcapping": 2.0,
    "attn_logit_softcapping": 1.5,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 24}
ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 2,
}
FIELDS: dict[str, dict[str, Any]] = {
    "apertus": NARROW,
    "arcee": WIDE | {"attention_bias": True, "mlp_bias": True},
    "cohere": NARROW | {"use_qk_norm": True, "logit_scale": 0.5},
    "cohere2": NARROW | WINDOWS | {"logit_scale": 0.5},
    "cwm": WIDE | WINDOWS,
    "dots1": WIDE | WINDOWS | ROUTED,
    "ernie4_5": WIDE | {"use_bias": True},
    "ernie4_5_moe": NARROW
    | {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24, "moe_layer_start_index": 2},
    "exaone4": NARROW | WINDOWS,
    "exaone_moe": WIDE | WINDOWS | EXPERTS | ROUTED,
    "flex_olmo": NARROW | EXPERTS,
    "gemma": WIDE,
    "gemma2": WIDE | WINDOWS | GEMMA,
    "gemma3_text": WIDE | WINDOWS | GEMMA | TABLES | {"attention_bias": True},
    "glm": GROUPED | HALF | {"attention_bias": True},
    "glm4": GROUPED | HALF | {"attention_bias": True},
    "glm4_moe": GROUPED | HALF | ROUTED | {"use_qk_norm": True, "attention_bias": True},
    "gpt_oss": WIDE | WINDOWS | LOCAL,
    "granite": NARROW | GRANITE | {"attention_bias": True, "mlp_bias": True},
    "granite_swa": WIDE | WINDOWS | GRANITE | {"layer_rope_theta": [100.0, 10000.0, 0]},
    "granitemoe": NARROW | GRANITE | LOCAL,
    "granitemoe_swa": WIDE | WINDOWS | GRANITE | LOCAL | {"layer_rope_theta": [100.0, 10000.0, 0]},
    "granitemoeshared": NARROW | GRANITE | LOCAL,
    "helium": GROUPED | {"attention_bias": True, "mlp_bias": True},
    "hunyuan_v1_dense": WIDE,
    "hunyuan_v1_moe": WIDE | {"num_experts": 4, "moe_topk": 2},
    "hy_v3": WIDE | EXPERTS | {"num_shared_experts": 1, "first_k_dense_replace": 2},
    "hyperclovax": WIDE | GRANITE | {"use_post_norm": True},
    "internlm3": WIDE | {"qkv_bias": True, "bias": True},
    "iquestcoder": WIDE,
    "jais2": WIDE,
    "mellum": WIDE | WINDOWS | TABLES | EXPERTS,
    "minimax_m2": WIDE | LOCAL,
    "ministral": WIDE | WINDOWS,
    "mistral": WIDE | {"sliding_window": 5},
    "mixtral": WIDE | {"sliding_window": 5} | LOCAL,
    "nanochat": NARROW | {"final_logit_softcapping": 2.0},
    "nemotron": GROUPED | HALF | {"attention_bias": True, "mlp_bias": True},
    "olmo": NARROW | {"clip_qkv": 0.5},
    "olmo2": NARROW | {"attention_bias": True},
    "olmo3": NARROW | WINDOWS | TABLES,
    "olmoe": NARROW | EXPERTS | {"clip_qkv": 0.9},
    "phi": NARROW | HALF | {"qk_layernorm": True},
    "phi3": NARROW | {"sliding_window": 5} | HALF,
    "qwen2": NARROW | WINDOWS,
    "qwen2_moe": NARROW
    | EXPERTS
    | {"shared_expert_intermediate_size": 24, "mlp_only_layers": [0, 1]},
    "qwen3": WIDE | WINDOWS | {"attention_bias": True},
    "qwen3_moe": WIDE | EXPERTS | {"mlp_only_layers": [0, 1]},
    "seed_oss": WIDE | {"attention_bias": True, "attention_out_bias": True, "mlp_bias": True},
    "smollm3": NARROW | WINDOWS | {"no_rope_layers": [1, 0, 1]},
    "solar_open": WIDE | ROUTED,
    "stablelm": NARROW
    | HALF
    | {"use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True},
    "starcoder2": NARROW | {"sliding_window": 5},
    "vaultgemma": WIDE | WINDOWS | GEMMA,
}
"""By model type."""


def tiny_family(model_type: str, **changes: Any) -> PreTrainedModel:
    set_seed(sorted(FIELDS).index(model_type))
    config = AutoConfig.for_model(model_type, **(FIELDS[model_type] | changes))
    return spread(AutoModelForCausalLM.from_config(config))
