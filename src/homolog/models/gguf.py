"""A model in one GGUF file, the format of llama.cpp: read through transformers, dequantised.

The file holds everything: configuration, tokenizer, and weights in blocks of 4 to 8 bits with their
scales.  Each weight becomes the float32 number that its block stands for; a model asked for in
another dtype is rounded after that.  Transformers reads the architectures that it lists in
`transformers.integrations.gguf`, with the packages `gguf` and `accelerate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GgufConfig
from transformers.utils import is_accelerate_available, is_gguf_available

from homolog.errors import InputError
from homolog.reference import GGUF

_MAGIC = b"GGUF"
UNREAD = "Upgrade transformers and gguf, fetch the file again, or take the model's safetensors."


def is_gguf(ref: str) -> bool:
    """Whether `ref` is the path of a GGUF file."""
    return ref.lower().endswith(GGUF) and Path(ref).is_file()


def as_pretrained(ref: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` takes for a model: of a GGUF file, its folder and its name."""
    if not is_gguf(ref):
        return ref, dict(options)
    path = Path(ref)
    return str(path.parent), {**options, "gguf_file": path.name}


def dequantised(ref: str) -> dict[str, Any]:
    """The option by which transformers leaves no weight of a GGUF file in its blocks."""
    if not is_gguf(ref):
        return {}
    return {"quantization_config": GgufConfig(gguf_file=Path(ref).name, dequantize=True)}


def require_gguf(path: Path) -> None:
    """InputError unless the file is GGUF, and the packages that read it are there."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as error:
        requirement = f"it cannot be read ({error.strerror})"
        raise InputError("model", str(path), requirement, "Give this user access to it.") from None
    if start != _MAGIC:
        requirement = f"it is no GGUF file: it begins with {start!r}, not with {_MAGIC!r}"
        raise InputError("model", str(path), requirement, "Fetch it again.")
    present = {"gguf": is_gguf_available(), "accelerate": is_accelerate_available()}
    if missing := [package for package, there in present.items() if not there]:
        requirement = f"GGUF files are read with packages that are not here: {', '.join(missing)}"
        raise InputError("model", str(path), requirement, "pip install 'homolog[gguf]'")
