"""Recurrent models of the size of mamba2-130m, with random weights, for the benchmarks.

Mamba-2 and RWKV-4 have the configurations of state-spaces/mamba2-130m and RWKV/rwkv-4-169m-pile.
The two hybrids have 12 blocks, 768 wide, in the proportions of Qwen3-Next-80B-A3B (with dense MLPs:
experts would be the same module on both sides) and of Falcon-H1-0.5B-Base.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import AutoConfig

from homolog.models.architectures import ADAPTERS
from homolog.models.decoder import Decoder

WIDTH, N_BLOCKS = 768, 12
ALL = {"hidden_size": WIDTH, "use_cache": False, "bos_token_id": 0, "eos_token_id": 0}
MLP = {"num_hidden_layers": N_BLOCKS, "intermediate_size": 2048, "tie_word_embeddings": True}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "mamba2": {
        "vocab_size": 50288,
        "num_hidden_layers": 24,
        "num_heads": 24,
        "head_dim": 64,
        "n_groups": 1,
        "state_size": 128,
        "tie_word_embeddings": True,
    },
    "qwen3_next": MLP
    | {
        "vocab_size": 50304,
        "mlp_only_layers": list(range(N_BLOCKS)),
        "num_experts": 1,
        "linear_num_key_heads": 6,
        "linear_num_value_heads": 12,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
    },
    "rwkv": {
        "vocab_size": 50277,
        "num_hidden_layers": N_BLOCKS,
        "intermediate_size": 4 * WIDTH,
        "context_length": 1024,
    },
    "falcon_h1": MLP
    | {
        "vocab_size": 32784,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "mamba_d_ssm": 2 * WIDTH,
        "mamba_n_heads": 24,
        "mamba_d_head": 64,
        "mamba_n_groups": 1,
        "mamba_d_state": 128,
    },
}
"""By model type; each holds 130 to 170 million parameters."""


def module_of(architecture: str) -> PreTrainedModel:
    """The module of transformers in float32, with random weights."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **ALL | CONFIGURATIONS[architecture])
    hf = AutoModelForCausalLM.from_config(config)
    for module in hf.modules():
        if isinstance(module, torch.nn.Conv1d):
            # those of the hybrids are drawn so small that states are next to zero
            module.reset_parameters()
    return hf.eval().requires_grad_(False)


def adapter_of(hf: PreTrainedModel) -> Decoder:
    """Our adapter over it."""
    architecture = hf.config.model_type
    adapter = ADAPTERS[architecture]
    assert issubclass(adapter, Decoder)
    return adapter(f"{architecture}, random weights", hf)
