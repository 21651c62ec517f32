"""Tiny adapters of every architecture and the options that change their computation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.reference.tiny_models import (
    tiny_gpt2,
    tiny_gpt_neox,
    tiny_lfm2,
    tiny_llama,
    tiny_mamba,
    tiny_recurrent_gemma,
    tiny_rwkv,
    tiny_xlstm,
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
HF: dict[str, Callable] = {
    "neox-parallel": tiny_gpt_neox,
    "neox-sequential": lambda: tiny_gpt_neox(
        parallel=False, rope_parameters=FULL_ROTARY, attention_bias=False
    ),
    "gpt2": tiny_gpt2,
    "gpt2-scaled": lambda: tiny_gpt2(scale_attn_by_inverse_layer_idx=True, n_inner=None),
    "llama": tiny_llama,
    "llama-bias": lambda: tiny_llama(
        attention_bias=True, mlp_bias=True, num_key_value_heads=3, rope_parameters=LLAMA3
    ),
    "mamba": tiny_mamba,
    "mamba-bias": lambda: tiny_mamba(use_bias=True, use_conv_bias=False, conv_kernel=3, expand=3),
    **RECURRENCES,
}
ONE_EACH = ("neox-parallel", "gpt2", "llama", "mamba")  # one of each architecture
TRANSFORMERS = tuple(case for case in HF if case.startswith(("neox", "gpt2", "llama")))
MAMBAS = tuple(case for case in HF if "mamba" in case)
TOKENS = torch.randint(0, 97, (3, 11), generator=torch.Generator().manual_seed(0))


def tiny(case: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The adapter of a case of `HF`."""
    return adapter(HF[case](), f"tiny {case}", dtype)


def adapter(hf: Any, name: str = "tiny", dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The adapter over a module, without gradients to its weights.

    Norms and D differ from channel to channel.
    """
    with torch.no_grad():
        for parameter, p in hf.named_parameters():
            if parameter.endswith(("norm.weight", "norm_f.weight", ".D", "A_log")):
                p.add_(0.1 * torch.randn_like(p))
    hf.set_attn_implementation("eager")
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
