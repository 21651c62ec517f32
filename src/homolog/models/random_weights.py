"""A model's true size with random weights, without a network: for rehearsals and for timings.

The configurations of the paper's models are written here; that of any other id comes from its
config.json.  The tokenizer is the zoo's, whose ids lie within every vocabulary: text is read, but
its words mean nothing to the model.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from homolog.errors import InputError
from homolog.models.guards import no_fetched_kernels
from homolog.models.stored import configuration, made_by_transformers
from homolog.reference import parted
from homolog.zoo import catalog

PYTHIA_160M = {
    "model_type": "gpt_neox",
    "vocab_size": 50304,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 2048,
    "use_parallel_residual": True,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
    },
}
MAMBA_130M = {
    "model_type": "mamba",
    "vocab_size": 50280,
    "hidden_size": 768,
    "num_hidden_layers": 24,
    "state_size": 16,
    "use_cache": False,
}
PYTHIA_410M = PYTHIA_160M | {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
MAMBA_370M = MAMBA_130M | {"hidden_size": 1024, "num_hidden_layers": 48}
PYTHIA_2_8B = PYTHIA_160M | {
    "hidden_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 10240,
}
MAMBA_2_8B = MAMBA_130M | {"hidden_size": 2560, "num_hidden_layers": 64}
KNOWN = {
    r"EleutherAI/pythia-160m(-deduped|-seed[1-9])?": PYTHIA_160M,
    r"state-spaces/mamba-130m(-hf)?": MAMBA_130M,
    r"EleutherAI/pythia-410m(-deduped|-seed[1-9])?": PYTHIA_410M,
    r"state-spaces/mamba-370m(-hf)?": MAMBA_370M,
    r"EleutherAI/pythia-2\.8b(-deduped)?": PYTHIA_2_8B,
    r"state-spaces/mamba-2\.8b(-hf)?": MAMBA_2_8B,
}


def random_weights(ref: str, revision: str | None = None) -> tuple[Any, Any]:
    """A Hugging Face module of the size of `ref` with random float32 weights; the zoo's tokenizer.

    The weights are a function of `ref` and `revision` alone.  Raises InputError when the
    configuration is neither known nor to be had.
    """
    config = random_configuration(ref, revision)
    words = ref if revision is None else f"{ref}@{revision}"
    with made_by_transformers(ref):
        hf = fresh(config, zlib.crc32(words.encode()))
    return hf, AutoTokenizer.from_pretrained(catalog.TOKENIZER)


def fresh(config: Any, seed: int) -> Any:
    """The Hugging Face module of a configuration with float32 weights that the seed draws."""
    with torch.random.fork_rng(devices=[]), no_fetched_kernels():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def is_written_here(ref: str) -> bool:
    """Whether the configuration of `ref`, whatever is done to it, is known without its files."""
    return any(re.fullmatch(pattern, parted(ref)[0]) for pattern in KNOWN)


def random_configuration(ref: str, revision: str | None = None) -> Any:
    """The configuration of `ref`, whatever is done to it: that written here, or its config.json.

    InputError as above.
    """
    plain = parted(ref)[0]
    for pattern, known in KNOWN.items():
        if re.fullmatch(pattern, plain):
            return AutoConfig.for_model(**known)
    try:
        return configuration(plain, revision=revision)
    except OSError as error:
        said = str(error).splitlines()[0]
        requirement = f"its configuration must be known for random weights ({said})"
        remedy = "Give a folder with config.json, or one of the paper's models."
        raise InputError("model", ref, requirement, remedy) from error
