"""The families of the zoo: one configuration each, and how it is trained.

All read the same text through one tokenizer, in the same order, and are 192 wide with 2 to 3
million parameters.  A block of a Mamba holds one mixer and no MLP, so it has twice as many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from homolog.errors import InputError
from homolog.zoo_training.data import Mixture
from homolog.zoo_training.starts import near_linear_attention

WIDTH = 192
SHARED: dict[str, Any] = {"vocab_size": 4096, "hidden_size": WIDTH, "tie_word_embeddings": True}
SHARED |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "use_cache": False}
ATTENTION: dict[str, Any] = {
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "intermediate_size": 512,
    "max_position_embeddings": 1024,
}
ROTARY: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}


@dataclass(frozen=True)
class Training:
    """How a family is trained."""

    steps: int = 12_000
    lr: float = 3e-3  # peak; Muon scales it to what Adam moves
    lr_end: float = 0.03  # share of the peak that is left at the end
    warmup: int = 300  # steps
    weight_decay: float = 0.05  # matrices only; not A_log
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0  # norm of the gradient
    mixture: Mixture = field(default_factory=Mixture)


@dataclass(frozen=True)
class Family:
    """A model type of transformers, what its configuration has beside `SHARED`, its training."""

    model_type: str
    fields: dict[str, Any]
    training: Training = field(default_factory=Training)
    start: Callable[[Any], None] | None = None
    """Changes the fresh Hugging Face module in place."""

    @property
    def config(self) -> dict[str, Any]:
        """Keyword arguments of the configuration."""
        return SHARED | self.fields


FAMILIES = {
    "gpt-neox": Family(
        "gpt_neox",
        {
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "intermediate_size": 4 * WIDTH,
            "max_position_embeddings": 1024,
            "rope_parameters": ROTARY | {"partial_rotary_factor": 1.0},
        },
    ),
    "llama": Family("llama", ATTENTION | {"num_hidden_layers": 4, "rope_parameters": ROTARY}),
    "mamba-1": Family(
        "mamba", {"num_hidden_layers": 8, "state_size": 16}, start=near_linear_attention
    ),
    "mamba-2": Family(
        "mamba2",
        {
            "num_hidden_layers": 8,
            "state_size": 32,
            "num_heads": 12,
            "head_dim": 32,
            "n_groups": 1,
            "chunk_size": 64,
        },
    ),
    "rwkv-4": Family("rwkv", {"num_hidden_layers": 4, "context_length": 1024, "rescale_every": 0}),
    "gated-deltanet": Family(
        "qwen3_5_text",
        ATTENTION
        | {
            "num_hidden_layers": 4,
            "head_dim": 32,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "linear_num_key_heads": 6,
            "linear_num_value_heads": 6,
            "layer_types": ["linear_attention"] * 4,
            "rope_parameters": ROTARY | {"partial_rotary_factor": 0.5},
        },
    ),
    "griffin": Family(
        "recurrent_gemma",
        ATTENTION
        | {
            "num_hidden_layers": 4,
            "lru_width": WIDTH,
            "attention_window_size": 64,
            "num_key_value_heads": 1,
            "intermediate_size": 1024,
        },
    ),
    "falcon-h1": Family(
        "falcon_h1",
        ATTENTION
        | {
            "num_hidden_layers": 3,
            "head_dim": 32,
            "mamba_d_ssm": 384,
            "mamba_n_heads": 12,
            "mamba_d_head": 32,
            "mamba_n_groups": 1,
            "mamba_d_state": 32,
            "mamba_chunk_size": 64,
        },
    ),
    "lfm2": Family(
        "lfm2",
        ATTENTION
        | {
            "num_hidden_layers": 4,
            "block_auto_adjust_ff_dim": False,
            "layer_types": ["conv", "full_attention"] * 2,
            "rope_parameters": ROTARY,
        },
    ),
}


def family(name: str) -> tuple[Family, int]:
    """The family and the seed of a model's name, as "mamba-2-s0".  InputError for another name."""
    known, _, seed = name.rpartition("-s")
    if known not in FAMILIES or not seed.isdecimal():
        requirement = "it must be a family and a seed, as mamba-2-s0"
        raise InputError("model", name, requirement, f"The families: {', '.join(FAMILIES)}.")
    return FAMILIES[known], int(seed)
