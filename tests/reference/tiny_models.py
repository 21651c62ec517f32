"""Tiny models with random weights, of the same configuration classes as the real ones."""

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)


def tiny_gpt_neox(parallel: bool = True, **changes: object) -> GPTNeoXForCausalLM:
    torch.manual_seed(3)
    fields: dict = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
                    "intermediate_size": 80, "max_position_embeddings": 64, "use_parallel_residual": parallel,
                    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
                    }  # fmt: skip
    return _spread(GPTNeoXForCausalLM(GPTNeoXConfig(**(fields | changes))))


def tiny_gpt2(**changes: object) -> GPT2LMHeadModel:
    torch.manual_seed(5)
    fields: dict = {"vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 72, "n_positions": 64,
                    "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
    return _spread(GPT2LMHeadModel(GPT2Config(**(fields | changes))))


def tiny_llama(**changes: object) -> LlamaForCausalLM:
    """Six query heads share two key and value heads; the heads are together wider than the residual stream."""
    torch.manual_seed(6)
    fields: dict = {"vocab_size": 97, "hidden_size": 36, "num_hidden_layers": 3, "num_attention_heads": 6,
                    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 56, "max_position_embeddings": 64,
                    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}  # fmt: skip
    return _spread(LlamaForCausalLM(LlamaConfig(**(fields | changes))))


def tiny_mamba(**changes: object) -> MambaForCausalLM:
    torch.manual_seed(4)
    fields: dict = {"vocab_size": 97, "hidden_size": 40, "num_hidden_layers": 3, "state_size": 5, "use_cache": False}
    return _spread(MambaForCausalLM(MambaConfig(**(fields | changes))))


def _spread(model):
    """Fresh weights are so small that blocks hardly act; make every part matter."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not name.endswith(("A_log", "D", "norm.weight", "norm_f.weight")):
                p.add_(0.1 * torch.randn_like(p))
    return model.eval()
