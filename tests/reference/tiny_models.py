"""Tiny models with random weights, of the same configuration classes as the real ones.

`tiny_KIND(**changes)` builds one; changes are fields of its configuration.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    xLSTMConfig,
    xLSTMForCausalLM,
)
from transformers import initialization as init

from homolog.zoo import catalog


def save_readable(folder: Path, build: Callable[..., PreTrainedModel], **changes: Any) -> Path:
    """A model that `build` makes in a folder, with the tokenizer of the zoo."""
    tokenizer = AutoTokenizer.from_pretrained(catalog.TOKENIZER)
    build(vocab_size=len(tokenizer), **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _without(fields: dict, name: str) -> dict:
    return {key: value for key, value in fields.items() if key != name}


GROUPED = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 56,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NARROW = _without(GROUPED, "head_dim")
"""Heads together as wide as the stream."""
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
}
"""Of the gated delta rule."""
LATENT = {
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
}
"""Of attention over a latent vector, and of the experts that come with it."""
DEEPSEEK = LATENT | {
    "num_key_value_heads": 4,
    "first_k_dense_replace": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}
HYBRID = ["linear_attention", "linear_attention", "full_attention"]
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
}
HALF_ROTARY = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    }
}
MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
}


def spread(model):
    """Fresh weights are so small that blocks hardly act; make every part matter."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not name.endswith(("A_log", "D", "norm.weight", "norm_f.weight")):
                p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def _builder(seed: int, model_type: str, fields: dict[str, Any]) -> Callable[..., PreTrainedModel]:
    """What builds a model of that type, with other fields than these where it is told so."""

    def build(**changes: Any) -> PreTrainedModel:
        torch.manual_seed(seed)
        config = AutoConfig.for_model(model_type, **(fields | changes))
        return spread(AutoModelForCausalLM.from_config(config))

    return build


tiny_gpt_neox = _builder(
    3,
    "gpt_neox",
    {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 80,
        "max_position_embeddings": 64,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
        },
    },
)
tiny_gpt2 = _builder(
    5,
    "gpt2",
    {
        "vocab_size": 97,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_inner": 72,
        "n_positions": 64,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
)
tiny_llama = _builder(
    6,
    "llama",
    {
        "vocab_size": 97,
        "hidden_size": 36,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 56,
        "max_position_embeddings": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
)
"""Six query heads share two key and value heads; together they are wider than the stream."""
tiny_mamba = _builder(
    4,
    "mamba",
    {
        "vocab_size": 97,
        "hidden_size": 40,
        "num_hidden_layers": 3,
        "state_size": 5,
        "use_cache": False,
    },
)
tiny_qwen2 = _builder(7, "qwen2", NARROW)
tiny_qwen3 = _builder(8, "qwen3", GROUPED)
tiny_gemma = _builder(9, "gemma", GROUPED)
tiny_gemma2 = _builder(
    10,
    "gemma2",
    GROUPED
    | {
        "sliding_window": 5,
        "query_pre_attn_scalar": 8,
        "final_logit_softcapping": 2.0,
    },
)
"""Logits have a soft cap; every second block sees five positions back."""
tiny_mamba2 = _builder(
    11,
    "mamba2",
    {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "state_size": 8,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 2,
        "chunk_size": 8,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
)
"""Heads share B and C in two groups."""
tiny_falcon_h1 = _builder(
    12,
    "falcon_h1",
    GROUPED
    | {
        "mamba_d_ssm": 48,
        "mamba_n_heads": 6,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
        "embedding_multiplier": 3.0,
        "lm_head_multiplier": 0.5,
    },
)
"""Attention and a Mamba-2 mixer in every block; embeddings and logits are scaled."""
tiny_rwkv = _builder(
    13,
    "rwkv",
    {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "context_length": 64,
        "rescale_every": 1,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
)
"""RWKV-4.  Left to itself, every block in eval mode divides the weights of those after it."""
tiny_recurrent_gemma = _builder(
    14,
    "recurrent_gemma",
    GROUPED | {"lru_width": 32, "attention_window_size": 8, "num_key_value_heads": 1},
)
"""Two recurrent blocks to one with attention; embeddings are scaled."""
tiny_lfm2 = _builder(18, "lfm2", NARROW | {"layer_types": ["conv", "conv", "full_attention"]})
"""A gated short convolution in the first two blocks, attention in the last."""
tiny_lfm2_moe = _builder(
    19,
    "lfm2_moe",
    NARROW
    | {
        "layer_types": ["conv", "conv", "full_attention"],
        "moe_intermediate_size": 24,
        "num_dense_layers": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
)
"""Experts for the MLP, but for the first block."""
tiny_mixtral = _builder(15, "mixtral", GROUPED | {"num_local_experts": 3, "num_experts_per_tok": 2})
"""As many experts in each block as there are blocks."""
tiny_qwen3_next = _builder(
    18,
    "qwen3_next",
    GROUPED | DELTA | EXPERTS | HALF_ROTARY | {"mlp_only_layers": [1, 2], "layer_types": HYBRID},
)
"""Four value heads share two key heads; the last has attention, the first experts."""
tiny_qwen3_5 = _builder(19, "qwen3_5_text", GROUPED | DELTA | HALF_ROTARY | {"layer_types": HYBRID})
"""The last block has attention."""
tiny_qwen3_5_moe = _builder(
    20,
    "qwen3_5_moe_text",
    _without(GROUPED, "intermediate_size")
    | DELTA
    | EXPERTS
    | HALF_ROTARY
    | {"layer_types": HYBRID},
)
"""Every block has experts."""
tiny_olmo_hybrid = _builder(21, "olmo_hybrid", NARROW | DELTA | {"layer_types": HYBRID})
"""The last block has attention, without rotary positions."""
tiny_kimi_linear = _builder(
    22,
    "kimi_linear",
    NARROW
    | {
        "num_key_value_heads": 4,
        "linear_head_dim": 6,
        "linear_num_heads": 4,
        "layer_types": HYBRID,
        "mlp_layer_types": ["sparse", "dense", "dense"],
        "num_local_experts": 4,
        **LATENT,
    },
)
"""The last block has attention, keys of 10 and values of 5; the first experts in two groups."""
tiny_deepseek_v2 = _builder(
    23, "deepseek_v2", NARROW | DEEPSEEK | {"q_lora_rank": None, "n_routed_experts": 4}
)
tiny_deepseek_v3 = _builder(
    24, "deepseek_v3", NARROW | DEEPSEEK | {"q_lora_rank": 10, "n_routed_experts": 4}
)
"""The last block has experts."""
tiny_opt = _builder(
    16,
    "opt",
    {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "ffn_dim": 56,
        "word_embed_proj_dim": 24,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
)
"""Embeddings are narrower than the residual stream, and projected."""
tiny_zamba = _builder(
    17,
    "zamba",
    NARROW
    | {
        "num_key_value_heads": 4,
        "mamba_d_state": 8,
        "n_mamba_heads": 2,
        "num_hidden_layers": 6,
        "attn_layer_period": 3,
        "attn_layer_offset": 2,
    },
)
"""Its attention reads the embeddings anew, beside the residual stream."""
tiny_zamba2 = _builder(
    25,
    "zamba2",
    NARROW
    | {
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "num_key_value_heads": 4,
        "mamba_d_state": 8,
        "n_mamba_heads": 8,
        "mamba_ngroups": 2,
        "chunk_size": 8,
        "adapter_rank": 6,
        "use_shared_attention_adapter": True,
        "use_mem_rope": True,
    },
)
"""Blocks 1 and 2 share attention and MLP, and each adds its own to their matrices."""
tiny_falcon_mamba = _builder(
    18,
    "falcon_mamba",
    {
        "vocab_size": 97,
        "hidden_size": 40,
        "num_hidden_layers": 3,
        "state_size": 5,
        "use_cache": False,
    },
)
"""Mamba-1 with norms inside its mixer."""
tiny_bamba = _builder(19, "bamba", GROUPED | MAMBA2 | {"attn_layer_indices": [1]})
"""Block 1 has attention, whose rotary positions turn half of each head; the others Mamba-2."""
tiny_granite_hybrid = _builder(
    20,
    "granitemoehybrid",
    NARROW
    | MAMBA2
    | {
        "layer_types": ["full_attention", "linear_attention", "full_attention"],
        "num_local_experts": 0,
        "shared_intermediate_size": 40,
        "embedding_multiplier": 3.0,
        "logits_scaling": 2.0,
        "residual_multiplier": 0.7,
        "attention_multiplier": 0.3,
    },
)
"""Granite 4, without experts unless asked for: every part is scaled, nothing is rotated."""
tiny_jamba = _builder(
    21,
    "jamba",
    NARROW
    | {
        "attn_layer_period": 3,
        "attn_layer_offset": 1,
        "expert_layer_period": 3,
        "expert_layer_offset": 2,
        "num_experts": 3,
        "mamba_d_state": 5,
    },
)
"""Attention in block 1, experts in block 2, the selective scan and MLPs in the others."""
tiny_nemotron_h = _builder(
    22,
    "nemotron_h",
    _without(GROUPED, "num_hidden_layers")
    | {
        "layer_types": ["linear_attention", "full_attention", "mlp", "moe", "linear_attention"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "n_groups": 2,
        "ssm_state_size": 8,
        "chunk_size": 8,
        "n_routed_experts": 4,
        "moe_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 24,
    },
)
"""One part in each block."""


def tiny_xlstm(**changes: object) -> PreTrainedModel:
    """Input gates as large as make both the normaliser and its floor matter."""
    torch.manual_seed(22)
    fields: dict = {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_heads": 4,
        "v_dim_factor": 2.0,
        "chunk_size": 32,
        "use_cache": False,
        "autocast_kernel_dtype": "float32",
    }
    config = xLSTMConfig(**(fields | changes))
    if config.weight_mode == "fused":  # transformers cannot fill these
        with init.no_init_weights():
            model = xLSTMForCausalLM(config)
        for name, p in model.named_parameters():
            torch.nn.init.ones_(p) if "norm" in name else torch.nn.init.normal_(p, std=0.02)
    else:
        model = xLSTMForCausalLM(config)
        for block in model.backbone.blocks:
            torch.nn.init.constant_(block.mlstm_layer.igate_preact.bias, 2.0)
            torch.nn.init.ones_(block.mlstm_layer.fgate_preact.bias)
    model = spread(model)
    with torch.no_grad():  # the norm of each head makes much of what float32 rounds
        for block in model.backbone.blocks:
            block.mlstm_layer.out_proj.weight.mul_(0.1)
            block.ffn.proj_down.weight.mul_(0.1)
    return model
