"""Tiny models with random weights, of the same configuration classes as the real ones."""

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, MambaConfig, MambaForCausalLM


def tiny_gpt_neox(parallel: bool = True) -> GPTNeoXForCausalLM:
    torch.manual_seed(3)
    config = GPTNeoXConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80,
        max_position_embeddings=64, use_parallel_residual=parallel,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    )  # fmt: skip
    return _spread(GPTNeoXForCausalLM(config))


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
