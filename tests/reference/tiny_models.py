"""Tiny models with random weights, of the same configuration classes as the real ones."""

import torch
from transformers import (
    BambaConfig,
    BambaForCausalLM,
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    FalconMambaConfig,
    FalconMambaForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM,
    JambaConfig,
    JambaForCausalLM,
    KimiLinearConfig,
    KimiLinearForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    Lfm2MoeConfig,
    Lfm2MoeForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    NemotronHConfig,
    NemotronHForCausalLM,
    OlmoHybridConfig,
    OlmoHybridForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5MoeForCausalLM,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    ZambaConfig,
    ZambaForCausalLM,
    xLSTMConfig,
    xLSTMForCausalLM,
)
from transformers import initialization as init

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


def tiny_gpt_neox(parallel: bool = True, **changes: object) -> GPTNeoXForCausalLM:
    torch.manual_seed(3)
    fields: dict = {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 80,
        "max_position_embeddings": 64,
        "use_parallel_residual": parallel,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
        },
    }
    return spread(GPTNeoXForCausalLM(GPTNeoXConfig(**(fields | changes))))


def tiny_gpt2(**changes: object) -> GPT2LMHeadModel:
    torch.manual_seed(5)
    fields: dict = {
        "vocab_size": 97,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_inner": 72,
        "n_positions": 64,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return spread(GPT2LMHeadModel(GPT2Config(**(fields | changes))))


def tiny_llama(**changes: object) -> LlamaForCausalLM:
    """Six query heads share two key and value heads; together they are wider than the stream."""
    torch.manual_seed(6)
    fields: dict = {
        "vocab_size": 97,
        "hidden_size": 36,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 56,
        "max_position_embeddings": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    return spread(LlamaForCausalLM(LlamaConfig(**(fields | changes))))


def tiny_mamba(**changes: object) -> MambaForCausalLM:
    torch.manual_seed(4)
    fields: dict = {
        "vocab_size": 97,
        "hidden_size": 40,
        "num_hidden_layers": 3,
        "state_size": 5,
        "use_cache": False,
    }
    return spread(MambaForCausalLM(MambaConfig(**(fields | changes))))


def tiny_qwen2() -> PreTrainedModel:
    torch.manual_seed(7)
    return spread(Qwen2ForCausalLM(Qwen2Config(**_without(GROUPED, "head_dim"))))


def tiny_qwen3(**changes: object) -> PreTrainedModel:
    torch.manual_seed(8)
    return spread(Qwen3ForCausalLM(Qwen3Config(**(GROUPED | changes))))


def tiny_gemma() -> PreTrainedModel:
    torch.manual_seed(9)
    return spread(GemmaForCausalLM(GemmaConfig(**GROUPED)))


def tiny_gemma2() -> PreTrainedModel:
    """Logits have a soft cap; every second block sees five positions back."""
    torch.manual_seed(10)
    fields = GROUPED | {
        "sliding_window": 5,
        "query_pre_attn_scalar": 8,
        "final_logit_softcapping": 2.0,
    }
    return spread(Gemma2ForCausalLM(Gemma2Config(**fields)))


def tiny_mamba2(**changes: object) -> PreTrainedModel:
    """Heads share B and C in two groups."""
    torch.manual_seed(11)
    fields: dict = {
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
    }
    return spread(Mamba2ForCausalLM(Mamba2Config(**(fields | changes))))


def tiny_falcon_h1(**changes: object) -> PreTrainedModel:
    """Attention and a Mamba-2 mixer in every block; embeddings and logits are scaled."""
    torch.manual_seed(12)
    fields = GROUPED | {
        "mamba_d_ssm": 48,
        "mamba_n_heads": 6,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
        "embedding_multiplier": 3.0,
        "lm_head_multiplier": 0.5,
    }
    return spread(FalconH1ForCausalLM(FalconH1Config(**(fields | changes))))


def tiny_rwkv(**changes: object) -> PreTrainedModel:
    """RWKV-4.  Left to itself, every block in eval mode divides the weights of those after it."""
    torch.manual_seed(13)
    fields: dict = {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "context_length": 64,
        "rescale_every": 1,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return spread(RwkvForCausalLM(RwkvConfig(**(fields | changes))))


def tiny_recurrent_gemma(**changes: object) -> PreTrainedModel:
    """Two recurrent blocks to one with attention; embeddings are scaled."""
    torch.manual_seed(14)
    fields = GROUPED | {"lru_width": 32, "attention_window_size": 8, "num_key_value_heads": 1}
    return spread(RecurrentGemmaForCausalLM(RecurrentGemmaConfig(**(fields | changes))))


def tiny_lfm2(**changes: object) -> PreTrainedModel:
    """A gated short convolution in the first two blocks, attention in the last."""
    torch.manual_seed(18)
    fields = _without(GROUPED, "head_dim") | {"layer_types": ["conv", "conv", "full_attention"]}
    return spread(Lfm2ForCausalLM(Lfm2Config(**(fields | changes))))


def tiny_lfm2_moe() -> PreTrainedModel:
    """Experts for the MLP, but for the first block."""
    torch.manual_seed(19)
    fields = _without(GROUPED, "head_dim") | {
        "layer_types": ["conv", "conv", "full_attention"],
        "moe_intermediate_size": 24,
        "num_dense_layers": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }
    return spread(Lfm2MoeForCausalLM(Lfm2MoeConfig(**fields)))


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
            block.mlstm_layer.out_proj.weight.mul_(0.3)
            block.ffn.proj_down.weight.mul_(0.3)
    return model


def tiny_mixtral() -> PreTrainedModel:
    """As many experts in each block as there are blocks."""
    torch.manual_seed(15)
    return spread(
        MixtralForCausalLM(MixtralConfig(**GROUPED, num_local_experts=3, num_experts_per_tok=2))
    )


def tiny_qwen3_next(**changes: object) -> PreTrainedModel:
    """Four value heads share two key heads; the last has attention, the first experts."""
    torch.manual_seed(18)
    fields = GROUPED | DELTA | EXPERTS | HALF_ROTARY
    fields |= {"mlp_only_layers": [1, 2], "layer_types": HYBRID}
    return spread(Qwen3NextForCausalLM(Qwen3NextConfig(**(fields | changes))))


def tiny_qwen3_5(**changes: object) -> PreTrainedModel:
    """The last block has attention."""
    torch.manual_seed(19)
    fields = GROUPED | DELTA | HALF_ROTARY | {"layer_types": HYBRID}
    return spread(Qwen3_5ForCausalLM(Qwen3_5TextConfig(**(fields | changes))))


def tiny_qwen3_5_moe(**changes: object) -> PreTrainedModel:
    """Every block has experts."""
    torch.manual_seed(20)
    fields = _without(GROUPED, "intermediate_size") | DELTA | EXPERTS | HALF_ROTARY
    fields |= {"layer_types": HYBRID}
    return spread(Qwen3_5MoeForCausalLM(Qwen3_5MoeTextConfig(**(fields | changes))))


def tiny_olmo_hybrid(**changes: object) -> PreTrainedModel:
    """The last block has attention, without rotary positions."""
    torch.manual_seed(21)
    fields = _without(GROUPED, "head_dim") | DELTA | {"layer_types": HYBRID}
    return spread(OlmoHybridForCausalLM(OlmoHybridConfig(**(fields | changes))))


def tiny_kimi_linear(**changes: object) -> PreTrainedModel:
    """The last block has attention, keys of 10 and values of 5; the first experts in two groups."""
    torch.manual_seed(22)
    fields = _without(GROUPED, "head_dim") | {
        "num_key_value_heads": 4,
        "linear_head_dim": 6,
        "linear_num_heads": 4,
        "layer_types": HYBRID,
        "mlp_layer_types": ["sparse", "dense", "dense"],
        "num_local_experts": 4,
        **LATENT,
    }
    return spread(KimiLinearForCausalLM(KimiLinearConfig(**(fields | changes))))


def tiny_deepseek_v2() -> PreTrainedModel:
    torch.manual_seed(23)
    fields = _without(GROUPED, "head_dim") | DEEPSEEK | {"q_lora_rank": None, "n_routed_experts": 4}
    return spread(DeepseekV2ForCausalLM(DeepseekV2Config(**fields)))


def tiny_deepseek_v3(**changes: object) -> PreTrainedModel:
    """The last block has experts."""
    torch.manual_seed(24)
    fields = _without(GROUPED, "head_dim") | DEEPSEEK | {"q_lora_rank": 10, "n_routed_experts": 4}
    return spread(DeepseekV3ForCausalLM(DeepseekV3Config(**(fields | changes))))


def tiny_opt(**changes: object) -> PreTrainedModel:
    """Embeddings are narrower than the residual stream, and projected."""
    torch.manual_seed(16)
    fields: dict = {
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
    }
    return spread(OPTForCausalLM(OPTConfig(**(fields | changes))))


def tiny_zamba() -> PreTrainedModel:
    """Its attention reads the embeddings anew, beside the residual stream."""
    torch.manual_seed(17)
    fields = _without(GROUPED, "head_dim") | {
        "num_key_value_heads": 4,
        "mamba_d_state": 8,
        "n_mamba_heads": 2,
        "num_hidden_layers": 6,
        "attn_layer_period": 3,
        "attn_layer_offset": 2,
    }
    return spread(ZambaForCausalLM(ZambaConfig(**fields)))


def tiny_falcon_mamba(**changes: object) -> PreTrainedModel:
    """Mamba-1 with norms inside its mixer."""
    torch.manual_seed(18)
    fields: dict = {
        "vocab_size": 97,
        "hidden_size": 40,
        "num_hidden_layers": 3,
        "state_size": 5,
        "use_cache": False,
    }
    return spread(FalconMambaForCausalLM(FalconMambaConfig(**(fields | changes))))


MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
}


def tiny_bamba(**changes: object) -> PreTrainedModel:
    """Block 1 has attention, whose rotary positions turn half of each head; the others Mamba-2."""
    torch.manual_seed(19)
    fields = GROUPED | MAMBA2 | {"attn_layer_indices": [1]}
    return spread(BambaForCausalLM(BambaConfig(**(fields | changes))))


def tiny_granite_hybrid(**changes: object) -> PreTrainedModel:
    """Granite 4, without experts unless asked for: every part is scaled, nothing is rotated."""
    torch.manual_seed(20)
    fields = _without(GROUPED, "head_dim") | MAMBA2
    fields |= {
        "layer_types": ["full_attention", "linear_attention", "full_attention"],
        "num_local_experts": 0,
        "shared_intermediate_size": 40,
        "embedding_multiplier": 3.0,
        "logits_scaling": 2.0,
        "residual_multiplier": 0.7,
        "attention_multiplier": 0.3,
    }
    return spread(GraniteMoeHybridForCausalLM(GraniteMoeHybridConfig(**(fields | changes))))


def tiny_jamba(**changes: object) -> PreTrainedModel:
    """Attention in block 1, experts in block 2, the selective scan and MLPs in the others."""
    torch.manual_seed(21)
    fields = _without(GROUPED, "head_dim") | {
        "attn_layer_period": 3,
        "attn_layer_offset": 1,
        "expert_layer_period": 3,
        "expert_layer_offset": 2,
        "num_experts": 3,
        "mamba_d_state": 5,
    }
    return spread(JambaForCausalLM(JambaConfig(**(fields | changes))))


def tiny_nemotron_h(**changes: object) -> PreTrainedModel:
    """One part in each block."""
    torch.manual_seed(22)
    fields = _without(GROUPED, "num_hidden_layers") | {
        "layer_types": ["linear_attention", "full_attention", "mlp", "moe", "linear_attention"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "n_groups": 2,
        "ssm_state_size": 8,
        "chunk_size": 8,
        "n_routed_experts": 4,
        "moe_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 24,
    }
    return spread(NemotronHForCausalLM(NemotronHConfig(**(fields | changes))))


def _without(fields: dict, name: str) -> dict:
    return {key: value for key, value in fields.items() if key != name}


def spread(model):
    """Fresh weights are so small that blocks hardly act; make every part matter."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not name.endswith(("A_log", "D", "norm.weight", "norm_f.weight")):
                p.add_(0.1 * torch.randn_like(p))
    return model.eval()
