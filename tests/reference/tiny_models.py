"""Tiny models with random weights, of the same configuration classes as the real ones."""

import torch
from transformers import (
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
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
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
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
    return _spread(GPTNeoXForCausalLM(GPTNeoXConfig(**(fields | changes))))


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
    return _spread(GPT2LMHeadModel(GPT2Config(**(fields | changes))))


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
    return _spread(LlamaForCausalLM(LlamaConfig(**(fields | changes))))


def tiny_mamba(**changes: object) -> MambaForCausalLM:
    torch.manual_seed(4)
    fields: dict = {
        "vocab_size": 97,
        "hidden_size": 40,
        "num_hidden_layers": 3,
        "state_size": 5,
        "use_cache": False,
    }
    return _spread(MambaForCausalLM(MambaConfig(**(fields | changes))))


def tiny_qwen2() -> PreTrainedModel:
    torch.manual_seed(7)
    return _spread(Qwen2ForCausalLM(Qwen2Config(**_without(GROUPED, "head_dim"))))


def tiny_qwen3(**changes: object) -> PreTrainedModel:
    torch.manual_seed(8)
    return _spread(Qwen3ForCausalLM(Qwen3Config(**(GROUPED | changes))))


def tiny_gemma() -> PreTrainedModel:
    torch.manual_seed(9)
    return _spread(GemmaForCausalLM(GemmaConfig(**GROUPED)))


def tiny_gemma2() -> PreTrainedModel:
    """Logits have a soft cap; every second block sees five positions back."""
    torch.manual_seed(10)
    fields = GROUPED | {
        "sliding_window": 5,
        "query_pre_attn_scalar": 8,
        "final_logit_softcapping": 2.0,
    }
    return _spread(Gemma2ForCausalLM(Gemma2Config(**fields)))


def tiny_mamba2() -> PreTrainedModel:
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
    return _spread(Mamba2ForCausalLM(Mamba2Config(**fields)))


def tiny_falcon_h1() -> PreTrainedModel:
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
    return _spread(FalconH1ForCausalLM(FalconH1Config(**fields)))


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
    return _spread(RwkvForCausalLM(RwkvConfig(**(fields | changes))))


def tiny_recurrent_gemma(**changes: object) -> PreTrainedModel:
    """Two recurrent blocks to one with attention; embeddings are scaled."""
    torch.manual_seed(14)
    fields = GROUPED | {"lru_width": 32, "attention_window_size": 8, "num_key_value_heads": 1}
    return _spread(RecurrentGemmaForCausalLM(RecurrentGemmaConfig(**(fields | changes))))


def tiny_lfm2(**changes: object) -> PreTrainedModel:
    """A gated short convolution in the first two blocks, attention in the last."""
    torch.manual_seed(18)
    fields = _without(GROUPED, "head_dim") | {"layer_types": ["conv", "conv", "full_attention"]}
    return _spread(Lfm2ForCausalLM(Lfm2Config(**(fields | changes))))


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
    return _spread(Lfm2MoeForCausalLM(Lfm2MoeConfig(**fields)))


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
    model = _spread(model)
    with torch.no_grad():  # the norm of each head makes much of what float32 rounds
        for block in model.backbone.blocks:
            block.mlstm_layer.out_proj.weight.mul_(0.3)
            block.ffn.proj_down.weight.mul_(0.3)
    return model


def tiny_mixtral() -> PreTrainedModel:
    """As many experts in each block as there are blocks."""
    torch.manual_seed(15)
    return _spread(
        MixtralForCausalLM(MixtralConfig(**GROUPED, num_local_experts=3, num_experts_per_tok=2))
    )


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
    return _spread(OPTForCausalLM(OPTConfig(**(fields | changes))))


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
    return _spread(ZambaForCausalLM(ZambaConfig(**fields)))


def _without(fields: dict, name: str) -> dict:
    return {key: value for key, value in fields.items() if key != name}


def _spread(model):
    """Fresh weights are so small that blocks hardly act; make every part matter."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not name.endswith(("A_log", "D", "norm.weight", "norm_f.weight")):
                p.add_(0.1 * torch.randn_like(p))
    return model.eval()
