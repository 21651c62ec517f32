"""Tiny adapters of every architecture and the options that change their computation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tests.reference.tiny_family import tiny_family
from tests.reference.tiny_models import (
    tiny_bamba,
    tiny_deepseek_v2,
    tiny_deepseek_v3,
    tiny_falcon_h1,
    tiny_falcon_mamba,
    tiny_gpt2,
    tiny_gpt_neox,
    tiny_granite_hybrid,
    tiny_jamba,
    tiny_kimi_linear,
    tiny_lfm2,
    tiny_llama,
    tiny_mamba,
    tiny_mamba2,
    tiny_nemotron_h,
    tiny_olmo_hybrid,
    tiny_qwen3_5,
    tiny_qwen3_5_moe,
    tiny_qwen3_next,
    tiny_recurrent_gemma,
    tiny_rwkv,
    tiny_xlstm,
    tiny_zamba2,
)
from torch import Tensor

from homolog.models import LanguageModel
from homolog.models.architectures import ADAPTERS

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FULL_ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
FACTORS = {
    "ssm_in_multiplier": 1.4,
    "ssm_out_multiplier": 0.6,
    "ssm_multipliers": [0.5, 1.5, 0.8, 1.2, 0.9],
    "attention_in_multiplier": 1.3,
    "attention_out_multiplier": 0.7,
    "key_multiplier": 1.6,
    "mlp_multipliers": [1.5, 0.4],
}
LINEAR, FULL, HYBRID = "linear_attention", "full_attention", "hybrid"
ROTARY = {"rope_type": "default", "rope_theta": 10000.0}
HYBRIDS: dict[str, Callable] = {
    "qwen3_next": tiny_qwen3_next,
    "qwen3_next-attention": lambda: tiny_qwen3_next(layer_types=[LINEAR, FULL, LINEAR]),
    "olmo_hybrid-attention": lambda: tiny_olmo_hybrid(layer_types=[LINEAR, FULL, LINEAR]),
    "kimi_linear": tiny_kimi_linear,
    "kimi_linear-attention": lambda: tiny_kimi_linear(
        layer_types=[LINEAR, FULL, LINEAR], q_lora_rank=10
    ),
}
"""Blocks of the gated delta rule and, in turn with them, of attention."""
RECURRENCES: dict[str, Callable] = {
    "recurrent-gemma": lambda: tiny_recurrent_gemma(logits_soft_cap=3.0),
    "recurrent-gemma-attention": lambda: tiny_recurrent_gemma(
        block_types=("recurrent", "attention"), conv1d_width=3, attention_bias=True
    ),
    "lfm2": tiny_lfm2,
    "lfm2-bias": lambda: tiny_lfm2(
        conv_bias=True, conv_L_cache=4, layer_types=["full_attention", "conv", "conv"]
    ),
    "lfm2-attention": lambda: tiny_lfm2(layer_types=["conv", "full_attention", "conv"]),
    "rwkv": lambda: tiny_rwkv(rescale_every=0),
    "xlstm": tiny_xlstm,
    "xlstm-fused": lambda: tiny_xlstm(weight_mode="fused", use_bias=True),
}
"""RG-LRU, gated short convolution and RWKV-4: the block that tests look into is the second."""
RELATIVES: dict[str, Callable] = {
    "qwen3_5": tiny_qwen3_5,
    "qwen3_5_moe": tiny_qwen3_5_moe,
    "olmo_hybrid": lambda: tiny_olmo_hybrid(linear_allow_neg_eigval=False, rope_parameters=ROTARY),
    "deepseek_v2": tiny_deepseek_v2,
    "deepseek_v3": tiny_deepseek_v3,
    "deepseek_v3-halves": lambda: tiny_deepseek_v3(rope_interleave=False),
}
"""Models made of the same parts: `test_written_out.py` has them, `HF` does not."""
FAMILY: dict[str, Callable] = {
    name: partial(tiny_family, name)
    for name in (
        "mistral",
        "qwen2",
        "qwen3",
        "gemma2",
        "gemma3_text",
        "olmo2",
        "granite",
        "smollm3",
        "phi3",
        "stablelm",
        "gpt_oss",
        "cohere",
        "hunyuan_v1_dense",
    )
}
"""Of Llama's family those that have together all that differs; all are in test_llama_family.py."""
HF: dict[str, Callable] = {
    "neox-parallel": tiny_gpt_neox,
    "neox-sequential": lambda: tiny_gpt_neox(
        use_parallel_residual=False, rope_parameters=FULL_ROTARY, attention_bias=False
    ),
    "gpt2": tiny_gpt2,
    "gpt2-scaled": lambda: tiny_gpt2(scale_attn_by_inverse_layer_idx=True, n_inner=None),
    "llama": tiny_llama,
    "llama-bias": lambda: tiny_llama(
        attention_bias=True, mlp_bias=True, num_key_value_heads=3, rope_parameters=LLAMA3
    ),
    "mamba": tiny_mamba,
    "mamba-bias": lambda: tiny_mamba(use_bias=True, use_conv_bias=False, conv_kernel=3, expand=3),
    "mamba2": tiny_mamba2,
    "mamba2-bias": lambda: tiny_mamba2(
        use_bias=True, use_conv_bias=False, n_groups=1, time_step_limit=(0.2, 0.7), conv_kernel=3
    ),
    "falcon_mamba": tiny_falcon_mamba,
    "falcon_h1": lambda: tiny_falcon_h1(**FACTORS),
    "falcon_h1-norm": lambda: tiny_falcon_h1(mamba_rms_norm=True, mamba_n_groups=2),
    "bamba": tiny_bamba,
    "granite_hybrid": tiny_granite_hybrid,
    "jamba": tiny_jamba,
    "nemotron_h": tiny_nemotron_h,
    "zamba2": tiny_zamba2,
    "zamba2-apart": lambda: tiny_zamba2(
        num_mem_blocks=2,
        num_key_value_heads=2,
        use_shared_attention_adapter=False,
        use_mem_rope=False,
        add_bias_linear=True,
        layers_block_type=[HYBRID, HYBRID, LINEAR],
    ),
    **HYBRIDS,
    **RECURRENCES,
}
ONE_EACH = ("neox-parallel", "gpt2", "llama", "mamba")  # one of each architecture
TRANSFORMERS = tuple(case for case in HF if case.startswith(("neox", "gpt2", "llama")))
MAMBAS = tuple(case for case in HF if "mamba" in case)
TOKENS = torch.randint(0, 97, (3, 11), generator=torch.Generator().manual_seed(0))


def tiny(case: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The adapter of a case of `HF`, of `FAMILY` or of `RELATIVES`."""
    return adapter((HF | FAMILY | RELATIVES)[case](), f"tiny {case}", dtype)


def adapter(hf: Any, name: str = "tiny", dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The adapter over a module, without gradients to its weights.

    Norms and D differ from channel to channel.
    """
    with torch.no_grad():
        for parameter, p in hf.named_parameters():
            if parameter.endswith(("norm.weight", "norm_f.weight", ".D", "A_log")):
                p.add_(0.1 * torch.randn_like(p))
    hf.set_attn_implementation("eager")
    hf.set_experts_implementation("eager")  # torch has no grouped product in float64
    return ADAPTERS[hf.config.model_type](name, hf.to(dtype).requires_grad_(False))


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest magnitude."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def returned_by(hf: Any, path: str, tokens: torch.Tensor) -> list[torch.Tensor]:
    """What the blocks at `path` return, by hooks of the test's own."""
    seen: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(
            lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in hf.get_submodule(path)
    ]
    with torch.no_grad():
        hf(tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen
